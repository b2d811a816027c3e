"""Classes and label encodings: the 19 train ids, and how each dataset stores them."""

from revt_hf.data.labels.classes import CLASSES as CLASSES
from revt_hf.data.labels.classes import IGNORE_INDEX as IGNORE_INDEX
from revt_hf.data.labels.classes import NUM_CLASSES as NUM_CLASSES
from revt_hf.data.labels.classes import PALETTE as PALETTE
from revt_hf.data.labels.classes import SUBSETS as SUBSETS
from revt_hf.data.labels.classes import TRAIN_ID as TRAIN_ID
from revt_hf.data.labels.classes import colourise as colourise
from revt_hf.data.labels.encodings import CITYSCAPES_IDS as CITYSCAPES_IDS
from revt_hf.data.labels.encodings import ENCODINGS as ENCODINGS
from revt_hf.data.labels.encodings import TRAIN_IDS as TRAIN_IDS
from revt_hf.data.labels.encodings import label_table as label_table
from revt_hf.data.labels.tables import LabelTable as LabelTable
from revt_hf.data.labels.tables import Reading as Reading
