"""Tensor names: original (mmsegmentation) <-> transformers in memory <-> transformers on disk.

``save_pretrained`` writes other names than ``state_dict()`` shows. One form, the one on disk,
is used wherever tensors of several models meet.
"""

import re
from functools import lru_cache

BACKBONE_PREFIX = "segformer."
HEAD_PREFIX = "decode_head."
COUNTER = f"{HEAD_PREFIX}batch_norm.num_batches_tracked"
CLASS_ROWS = f"{HEAD_PREFIX}classifier."
IMAGENET_CLASSIFIER = "classifier."

# in memory -> on disk; the order matters only where one pattern's result could match another.
_DISK_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"^segformer\.stages\.(\d)\.patch_embeddings\.",
            r"segformer.encoder.patch_embeddings.\1.",
        ),
        (r"^segformer\.stages\.(\d)\.layer_norm\.", r"segformer.encoder.layer_norm.\1."),
        (
            r"^segformer\.stages\.(\d)\.blocks\.(\d+)\.layernorm_before\.",
            r"segformer.encoder.block.\1.\2.layer_norm_1.",
        ),
        (
            r"^segformer\.stages\.(\d)\.blocks\.(\d+)\.layernorm_after\.",
            r"segformer.encoder.block.\1.\2.layer_norm_2.",
        ),
        (r"^segformer\.stages\.(\d)\.blocks\.(\d+)\.", r"segformer.encoder.block.\1.\2."),
        (r"\.attention\.q_proj\.", ".attention.self.query."),
        (r"\.attention\.k_proj\.", ".attention.self.key."),
        (r"\.attention\.v_proj\.", ".attention.self.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (
            r"\.attention\.sequence_reduction\.sequence_reduction\.",
            ".attention.self.sr.",
        ),
        (r"\.attention\.sequence_reduction\.layer_norm\.", ".attention.self.layer_norm."),
        (r"\.mlp\.fc1\.", ".mlp.dense1."),
        (r"\.mlp\.fc2\.", ".mlp.dense2."),
        (r"^decode_head\.linear_projections\.", "decode_head.linear_c."),
    )
)

# Original module names -> in memory. Fused key-value tensors and the unused ``conv_seg`` need
# more than a name and are not in this table.
_ORIGINAL_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.patch_embed(\d)\.proj\.", r"segformer.stages.{0}.patch_embeddings.proj."),
        (
            r"^backbone\.patch_embed(\d)\.norm\.",
            r"segformer.stages.{0}.patch_embeddings.layer_norm.",
        ),
        (r"^backbone\.norm(\d)\.", r"segformer.stages.{0}.layer_norm."),
        (r"^backbone\.block(\d)\.", r"segformer.stages.{0}.blocks."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.q\.", ".attention.q_proj."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.attn\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
        (r"\.attn\.norm\.", ".attention.sequence_reduction.layer_norm."),
        (r"^decode_head\.linear_c(\d)\.", "decode_head.linear_projections.{0}."),
        (r"^decode_head\.linear_fuse\.conv\.", "decode_head.linear_fuse."),
        (r"^decode_head\.linear_fuse\.bn\.", "decode_head.batch_norm."),
        (r"^decode_head\.linear_pred\.", "decode_head.classifier."),
    )
)
_FUSED_KEY_VALUE = ".attn.kv."
_UNUSED = "decode_head.conv_seg."

# On disk -> original. The halves of a fused key-value tensor get the same name.
_BACK_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^segformer\.encoder\.patch_embeddings\.(\d)\.proj\.", "backbone.patch_embed{0}.proj."),
        (
            r"^segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.",
            "backbone.patch_embed{0}.norm.",
        ),
        (r"^segformer\.encoder\.layer_norm\.(\d)\.", "backbone.norm{0}."),
        (r"^segformer\.encoder\.block\.(\d)\.", "backbone.block{0}."),
        (r"\.layer_norm_1\.", ".norm1."),
        (r"\.layer_norm_2\.", ".norm2."),
        (r"\.attention\.self\.query\.", ".attn.q."),
        (r"\.attention\.self\.(?:key|value)\.", _FUSED_KEY_VALUE),
        (r"\.attention\.self\.sr\.", ".attn.sr."),
        (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.mlp\.dense1\.", ".mlp.fc1."),
        (r"\.mlp\.dense2\.", ".mlp.fc2."),
        (r"^decode_head\.linear_c\.(\d)\.", "decode_head.linear_c{0}."),
        (r"^decode_head\.linear_fuse\.", "decode_head.linear_fuse.conv."),
        (r"^decode_head\.batch_norm\.", "decode_head.linear_fuse.bn."),
        (r"^decode_head\.classifier\.", "decode_head.linear_pred."),
    )
)


@lru_cache(maxsize=4096)  # members of one merge have the same names
def disk_name(name: str) -> str:
    """The name that ``save_pretrained`` writes for a tensor named as in memory or on disk."""
    for pattern, replacement in _DISK_RULES:
        name = pattern.sub(replacement, name)
    return name


def memory_names(original: str) -> tuple[str, ...]:
    """In-memory names of a tensor of the original implementation (mmsegmentation naming).

    Two names (key, then value) for a fused ``attn.kv`` tensor, none for the unused ``conv_seg``.
    """
    if original.startswith(_UNUSED):
        return ()
    name = original
    for pattern, replacement in _ORIGINAL_RULES:
        found = pattern.search(name)
        if found:
            # The original counts stages from 1.
            stage = str(int(found[1]) - 1) if found.groups() else ""
            name = pattern.sub(replacement.format(stage), name)
    if _FUSED_KEY_VALUE in name:
        return tuple(
            name.replace(_FUSED_KEY_VALUE, f".attention.{part}_proj.") for part in ("k", "v")
        )
    return (name,)


def original_name(on_disk: str) -> str:
    """The original's name of a tensor named as on disk.

    Key and value share one name: the original fuses them, key first.
    """
    name = on_disk
    for pattern, replacement in _BACK_RULES:
        found = pattern.search(name)
        if found:
            # The original counts stages from 1.
            stage = str(int(found[1]) + 1) if found.groups() else ""
            name = pattern.sub(replacement.format(stage), name)
    return name
