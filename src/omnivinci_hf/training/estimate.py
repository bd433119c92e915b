"""This module estimates how much memory one process of a training run needs, by formula from the config alone.

Nothing is run and no weights are read: the model is built on the meta device to count its parameters, and what the
forward pass keeps for the backward pass is counted layer by layer, as PyTorch 2.x and Transformers' modules keep it
(attention `sdpa` with a fused kernel, whose score matrix is never stored).

Letters used below: `d` hidden size, `f` width of the feed-forward network, `q`
and `kv` widths of the queries and of the keys, `V` vocabulary. Three sizes in bytes depend on `dtype`:

    dtype       weights   stream   product     meaning
    float32        4         4        4        everything in float32
    bfloat16       2         2        2        weights loaded in bfloat16; `TrainingArguments(bf16=...)` changes little
    mixed          4         4        2        float32 weights and `TrainingArguments(bf16=True)`: autocast

"stream" is the residual stream and what norms return, "product" what matrix products read and return.

**Before a step** the process holds the weights, the state of the optimizer (AdamW: two numbers per learning parameter,
in the weights' dtype: there is no float32 master copy of bfloat16 weights; with `mixed` the weights themselves are the
master copy) and, with several processes and no sharding, DDP's buckets, as large as the gradients.

**Kept by the forward pass**, per token, of each part that gradients pass through ("learns": its own weights, too):

    decoder layer   2 norms: each 4 d (its input in float32), and if it learns stream d (before its weight)
                    inputs of products, if it learns: product d twice (qkv, gate and up), with `mixed` five times, as
                    each product makes a copy of its own
                    attention: product (2 q + 2 kv) for queries, keys, values and result, and 4 bytes per head
                    feed-forward: product 3 f, and product f more if it learns
    encoder layer   2 norms: stream d each; inputs of products, if it learns: product d twice, `mixed` four times
                    attention: product 4 d; feed-forward: product f, and product f more if it learns
    projector       its norm: stream w and product w (w: the joined patches' width) per embedding; product 2 d
    checkpointed    stream d alone, per layer of tower or decoder
    lm_head, loss   product d; 4 V: the log-probabilities, in float32, of the words alone: as the collator asks for
                    (`only_needed_logits`), nothing is predicted where media stand
    LoRA            inputs of products: with bfloat16 weights a float32 copy for each, with float32 ones 4 (2 d + f),
                    with `mixed` a bfloat16 copy for each; and 4 bytes times the rank for each

A frozen tower stands before everything that learns: it keeps nothing, and a single process runs it in chunks. A frozen
language model keeps what gradients need on their way to the projectors. With `mixed`, every product also keeps a
bfloat16 copy of its weights until its backward pass (2 bytes per parameter; with checkpointing, until the end of the
forward pass).

**The peak** is the largest of: the forward pass (what was kept so far and what the part needs meanwhile); the backward
pass, which goes through the parts in reverse, frees what they kept and leaves gradients (the loss alone needs 8 V more,
for two float32 gradients of the logits); the step of the (fused) optimizer. So it is at most the sum of the rows, of
which "working memory of a layer" is the most that any pass needs meanwhile.

Not counted: the CUDA context (0.5 to 1 GB), fragmentation of the allocator, buffers of NCCL and of CUDA libraries, the
masks of padded rows (rows count as full), one dequantized weight at a time, the float32 copies that peft's
`prepare_model_for_kbit_training` makes of what is not quantized, and OmniAlignNet's activations (under 1 % of the
language model's). An image counts as one frame per tile; a batch without video or audio runs one dummy frame or window,
as the collator's does.

**It is an estimate.** `benchmarks/train_memory.py` compares it with what PyTorch allocates for a model of 64 M
parameters, the tests for one of 12 M (see MEASURED_ERROR). Sharding and quantization are not measured. PyTorch's own
tracker under fake tensors is no way: sizes in this model follow from what its inputs hold, which fake ones do not tell.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from ..omnivinci.configuration_omnivinci import OmniVinciConfig
from ..omnivinci.media_encoder_omnivinci import CHUNK_POSITIONS
from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from ..omnivinci.time_embedding_omnivinci import MAX_BLOCK_ELEMENTS


TRAINABLE_PARTS = (
    "vision_tower",
    "vision_projector",
    "audio_tower",
    "audio_projector",
    "language_model",
    "lm_head",
    "omni_align_net",
)
# bytes of (weights, stream, product), see above
PRECISIONS = {"float32": (4, 4, 4), "bfloat16": (2, 2, 2), "mixed": (4, 4, 2)}
# bytes per parameter of the state: AdamW's two numbers in the weights' dtype, or in 8 bits with a float32 per 256
OPTIMIZERS = {"adamw": None, "adamw_8bit": 2 * (1 + 4 / 256), "sgd": 0}
# bytes per weight: int8 (its scales per row are small), 4 bits with a float32 per 64
QUANTIZED = {"int8": 1, "nf4": 0.5 + 4 / 64}
SHARDING = ("none", "fsdp", "zero3")
MEL_FRAMES_PER_SEC = 100
# How far the estimate is off in the settings that the tests measure.
MEASURED_ERROR = "within 3 % of what PyTorch allocated"


@dataclass(frozen=True)
class MemoryEstimate:
    """An estimate says how many bytes one process needs.

    Args:
        weights, optimizer, communication, gradients: of the parameters, the state of the optimizer, what processes
            exchange, and the gradients.
        activations, copies: what the forward pass keeps, and autocast's copies of the weights.
        logits, working: the log-probabilities with their gradients, and what a layer needs meanwhile.
        total, when: the most at any time, and the part of the step at which that is; the numbers above are the most of
            each of these, which are not all there at the same time.
        num_parameters, num_trainable: of the model with its adapters.
        seq_len: tokens of a row.
    """

    weights: float
    optimizer: float
    communication: float
    gradients: float
    activations: float
    copies: float
    logits: float
    working: float
    total: float
    when: str
    num_parameters: int
    num_trainable: int
    seq_len: int


@dataclass(frozen=True)
class _Counts:
    """The counts of a part number its parameters: all, those that can learn, and of these the weights of products."""

    total: int = 0
    learnable: int = 0
    products: int = 0


@dataclass
class _Stage:
    """A stage is a part of the model, in the order of the forward pass.

    Bytes: `kept` from its forward to its backward pass, `copies` likewise but of weights, `during` to the end of the
    whole forward pass, `forward` and `backward` only while the pass is in this part, `gradients` left behind.
    """

    name: str
    kept: float = 0
    copies: float = 0
    during: float = 0
    forward: float = 0
    backward: float = 0
    gradients: float = 0


def estimate_memory(
    config: OmniVinciConfig,
    trainable: Mapping[str, bool] | Iterable[str],
    *,
    dtype: str = "bfloat16",
    batch_size: int = 1,
    num_frames: int = 0,
    audio_sec: float = 0.0,
    text_tokens: int = 512,
    gradient_checkpointing: bool = False,
    optimizer: str = "adamw",
    lora_rank: int | None = None,
    quantization: str | None = None,
    num_processes: int = 1,
    sharding: str = "none",
) -> MemoryEstimate:
    """Estimates the memory that each process of a training run needs; the module's docstring has the formulas.

    Args:
        trainable: names of the parts that learn, out of `TRAINABLE_PARTS`, or whether each does.
        dtype: "float32", "bfloat16" (weights loaded so), or "mixed" (float32 weights, `bf16=True`).
        batch_size: rows of one process and step; accumulated gradients add nothing to what is counted.
        num_frames, audio_sec, text_tokens: of each row; an image counts as one frame per tile.
        optimizer: "adamw" (the fused one, Trainer's default), "adamw_8bit" or "sgd".
        lora_rank: of adapters on all products of the language model's layers, kept in float32.
        quantization: of the language model's layers: None, "int8" or "nf4".
        num_processes, sharding: "none" repeats everything on each process (DDP); "fsdp" and "zero3" share weights,
            gradients and the optimizer's state out.

    Raises:
        ValueError: for a part or a choice that there is not, or when nothing learns.
    """
    _check_choices(dtype=(dtype, PRECISIONS), optimizer=(optimizer, OPTIMIZERS), sharding=(sharding, SHARDING))
    if quantization is not None:
        _check_choices(quantization=(quantization, QUANTIZED))
    learns = _trainable(trainable, config)
    if quantization and learns["language_model"]:
        raise ValueError("A quantized language model cannot learn itself: give `lora_rank`, or leave it out.")
    run = _Run(
        config=config,
        learns=learns,
        counts=count_parameters(config),
        **dict(zip(("weight", "stream", "product"), PRECISIONS[dtype], strict=True)),
        is_mixed=dtype == "mixed",
        batch_size=batch_size,
        num_frames=num_frames,
        audio_sec=audio_sec,
        text_tokens=text_tokens,
        checkpointing=gradient_checkpointing,
        optimizer=optimizer,
        lora_rank=lora_rank or 0,
        quantization=quantization,
        num_processes=num_processes,
        sharding=sharding,
    )
    if not any(run.counts[name].learnable for name, learning in learns.items() if learning) and not lora_rank:
        raise ValueError(
            f"Nothing learns; name one of {', '.join(TRAINABLE_PARTS)} in `trainable`, or give `lora_rank`."
        )
    return run.estimate()


def _check_choices(**options: tuple[str, Iterable[str]]) -> None:
    for name, (value, known) in options.items():
        if value not in known:
            raise ValueError(f"`{name}`={value!r} is unknown; choose one of {', '.join(known)}.")


def _trainable(trainable: Mapping[str, bool] | Iterable[str], config: OmniVinciConfig) -> dict[str, bool]:
    if not isinstance(trainable, Mapping):
        trainable = dict.fromkeys(trainable, True)
    if unknown := sorted(set(trainable) - set(TRAINABLE_PARTS)):
        raise ValueError(f"`trainable` has unknown parts {unknown}; known are {', '.join(TRAINABLE_PARTS)}.")
    if trainable.get("omni_align_net") and config.omni_align_config is None:
        raise ValueError("`omni_align_net` cannot learn: the config has no `omni_align_config`; set it to {}.")
    return {name: bool(trainable.get(name, False)) for name in TRAINABLE_PARTS}


def count_parameters(config: OmniVinciConfig) -> dict[str, _Counts]:
    """Counts the parameters of each part of the model, and of its "embed_tokens", exactly: on the meta device.

    Weights that the words' embedding and the head share are counted with the former.
    """
    with torch.device("meta"):
        model = OmniVinciForConditionalGeneration(config)
    model.tie_weights()
    products = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d))
    }
    totals = {name: [0, 0, 0] for name in (*TRAINABLE_PARTS, "embed_tokens", "others")}
    for name, parameter in model.named_parameters():
        part = next((part for part in ("embed_tokens", *TRAINABLE_PARTS) if part in name.split(".")), "others")
        is_run = parameter.requires_grad  # layers that never run are frozen from the start
        for index, is_counted in enumerate((True, is_run, is_run and id(parameter) in products)):
            totals[part][index] += parameter.numel() * is_counted
    return {name: _Counts(*numbers) for name, numbers in totals.items()}


@dataclass(frozen=True)
class _Run:
    """A run holds the settings of a training, and computes what each part of the model keeps under them."""

    config: OmniVinciConfig
    learns: Mapping[str, bool]
    counts: Mapping[str, _Counts]
    weight: int  # bytes, as is the next, see above
    stream: int
    product: int
    is_mixed: bool
    batch_size: int
    num_frames: int
    audio_sec: float
    text_tokens: int
    checkpointing: bool
    optimizer: str
    lora_rank: int
    quantization: str | None
    num_processes: int
    sharding: str

    def estimate(self) -> MemoryEstimate:
        """Adds up what the stages need, and what stands beside them."""
        share = self.num_processes if self.is_sharded else 1
        stages = self.stages()
        gradients = sum(stage.gradients for stage in stages)
        peak, when = _peak([replace(stage, gradients=stage.gradients / share) for stage in stages])
        weights, state, communication = self._weights(), self._state(gradients), self._communication(gradients)
        return MemoryEstimate(
            weights=weights / share,
            optimizer=state / share,
            communication=communication,
            gradients=gradients / share,
            activations=sum(stage.kept for stage in stages[:-1]),
            copies=sum(stage.copies for stage in stages),
            logits=stages[-1].kept + stages[-1].backward,
            working=_working(stages),
            total=(weights + state) / share + communication + peak,
            when=when,
            num_parameters=self.num_model_parameters + self.num_adapter_parameters,
            num_trainable=self.num_trainable,
            seq_len=self.seq_len,
        )

    def _weights(self) -> float:
        quantized = self.counts["language_model"].products if self.quantization else 0
        size = QUANTIZED[self.quantization] if self.quantization else 0
        plain = self.num_model_parameters - quantized
        return plain * self.kept_weight + quantized * size + 4 * self.num_adapter_parameters

    def _state(self, gradients: float) -> float:
        """Returns the bytes of the optimizer's state, of all processes together."""
        if self.sharding == "zero3" and self.kept_weight == 2:
            return 12 * self.num_trainable  # with a float32 copy of the weights
        size = OPTIMIZERS[self.optimizer]
        return 2 * gradients if size is None else self.num_trainable * size

    def _communication(self, gradients: float) -> float:
        """Returns the bytes gathered of other processes' shares, or of the buckets in which DDP sums up gradients."""
        if self.is_sharded:
            return self.gathered
        return gradients if self.num_processes > 1 else 0

    @property
    def is_sharded(self) -> bool:
        """Whether processes share out weights, gradients and the optimizer's state."""
        return self.sharding != "none" and self.num_processes > 1

    @property
    def kept_weight(self) -> int:
        """Bytes of a weight between the steps."""
        return 2 if self.sharding == "zero3" and self.is_mixed else self.weight

    @property
    def num_model_parameters(self) -> int:
        """Parameters of the model without adapters."""
        return sum(counts.total for counts in self.counts.values())

    @property
    def num_trainable(self) -> int:
        """Parameters that learn, those of adapters included."""
        parts = (*TRAINABLE_PARTS, "embed_tokens")
        return self.num_adapter_parameters + sum(self.gradients(name) for name in parts) // self.weight

    @property
    def num_windows(self) -> int:
        """Windows of audio of a row."""
        return math.ceil(self.audio_sec * MEL_FRAMES_PER_SEC / self.config.audio_window_frames)

    @property
    def seq_len(self) -> int:
        """Tokens of a row: embeddings of all pooled frames and of all windows, and words."""
        vision = self.config.vision_config
        side = math.ceil(vision.image_size // vision.patch_size / self.config.spatial_merge_size)
        pools = [map(math.ceil, (self.num_frames / t, side / h, side / w)) for t, h, w in self.config.video_pool_sizes]
        audio_embeds = self.num_windows * self.config.audio_window_embeds
        return sum(map(math.prod, pools)) + audio_embeds + self.text_tokens

    @property
    def num_adapter_parameters(self) -> int:
        """Parameters of LoRA on all products of the language model's layers."""
        sizes = self._products()
        return self.lora_rank * self.config.text_config.num_hidden_layers * sum(map(sum, sizes))

    def gradients(self, name: str) -> int:
        """Returns the bytes of a part's gradients."""
        learns = self.learns["language_model" if name == "embed_tokens" else name]
        return self.counts[name].learnable * self.weight * learns

    @property
    def gathered(self) -> int:
        """Bytes that FSDP and ZeRO-3 gather: the words' embedding and the head, two decoder layers, one's gradients."""
        layer = self.counts["language_model"].total / self.config.text_config.num_hidden_layers
        ends = self.counts["embed_tokens"].total + self.counts["lm_head"].total
        return self.product * (ends + 2 * layer) + self.weight * layer * self.learns["language_model"]

    def _products(self) -> list[tuple[int, int]]:
        """Lists input and output widths of the products of a decoder layer."""
        d, f, q, kv = self._text_sizes()
        return [(d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d)]

    def _text_sizes(self) -> tuple[int, int, int, int]:
        text = self.config.text_config
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
        return text.hidden_size, text.intermediate_size, queries, keys

    def stages(self) -> list[_Stage]:
        """Lists the parts of the model in the order of the forward pass, with what each needs."""
        learns = self.learns
        reaches_words = any(learns[name] for name in TRAINABLE_PARTS[:5]) or bool(self.lora_rank)
        words = [*self._words(reaches_words), *self._head(reaches_words)]
        return [self._inputs(), *self._vision(), *self._audio(), *words]

    def _inputs(self) -> _Stage:
        audio = self.config.audio_config
        pixels = self.num_frames * 3 * self.config.vision_config.image_size**2
        mel = self.num_windows * audio.num_mel_bins * self.config.audio_window_frames
        return _Stage("inputs", during=self.batch_size * 4 * (pixels + mel))

    def _vision(self) -> list[_Stage]:
        config, vision = self.config, self.config.vision_config
        layer, layers = config.vision_feature_layer, vision.num_hidden_layers
        patches = (vision.image_size // vision.patch_size) ** 2
        num_frames = max(1, self.batch_size * self.num_frames)  # a batch without any gets a dummy
        tokens = num_frames * patches
        tower = self._encoder(
            "vision_tower",
            layer if layer >= 0 else layers + 1 + layer,
            tokens,
            vision.hidden_size,
            vision.intermediate_size,
            before=self.product * 3 * vision.patch_size**2 * tokens,
        )
        side = math.ceil(math.isqrt(patches) / config.spatial_merge_size)
        num_embeds = num_frames * side**2
        width = config.vision_feature_size * config.spatial_merge_size**2
        return [*tower, self._projector("vision", num_embeds, width, has_norm=True)]

    def _audio(self) -> list[_Stage]:
        audio, frames = self.config.audio_config, self.config.audio_window_frames
        d = audio.hidden_size
        windows = max(1, self.batch_size * self.num_windows)
        # two convolutions, the second with stride 2, and their activations
        before = self.product * windows * frames * (audio.num_mel_bins + 2 * d + d / 2)
        tokens = windows * frames // 2
        tower = self._encoder("audio_tower", audio.num_hidden_layers, tokens, d, audio.intermediate_size, before)
        merged = self.config.audio_feature_size * self.config.audio_merge_size
        num_embeds = windows * self.config.audio_window_embeds
        return [*tower, self._projector("audio", num_embeds, merged, has_norm=False)]

    def _encoder(self, name: str, num_layers: int, tokens: int, d: int, f: int, before: float) -> list[_Stage]:
        if not self.learns[name]:
            # one process runs it in chunks, and so much is needed for one; several run it at once
            at_once = tokens if self.num_processes > 1 else min(tokens, CHUNK_POSITIONS)
            return [_Stage(name, forward=at_once * (2 * self.stream * d + 2 * self.product * f))]
        inputs = (4 if self.is_mixed else 2) * self.product * d
        kept = tokens * (2 * self.stream * d + inputs + 4 * self.product * d + 2 * self.product * f)
        counts = self.counts[name]
        stage = _Stage(
            name,
            kept=kept,
            copies=2 * counts.products / num_layers * self.is_mixed,
            forward=tokens * self.stream * d,
            backward=tokens * (2 * self.stream * d + 2 * self.product * f),
            gradients=self.gradients(name) / num_layers,
        )
        if self.checkpointing:
            stage = self._checkpointed(stage, tokens * self.stream * d)
        return [_Stage(name, kept=before), *[stage] * num_layers]

    def _checkpointed(self, stage: _Stage, kept: float) -> _Stage:
        """Returns the same layer where only its input is kept, and the rest made again for its backward pass."""
        return replace(
            stage,
            kept=kept,
            copies=0,
            during=stage.copies,
            forward=stage.kept + stage.forward,
            backward=stage.kept + stage.copies + stage.backward,
        )

    def _projector(self, tower: str, num_embeds: int, width: int, has_norm: bool) -> _Stage:
        name, d = f"{tower}_projector", self.config.text_config.hidden_size
        learns, passes = self.learns[name], self.learns[name] or self.learns[f"{tower}_tower"]
        kept = (has_norm * self.stream * width + self.product * d) * passes + self.product * (width + d) * learns
        embedding = self.config.video_time_embedding if tower == "vision" else self.config.audio_time_embedding
        rotated = embedding.num_channels(d)
        turning = 5 * 8 * min(num_embeds * rotated, MAX_BLOCK_ELEMENTS)
        return _Stage(
            name,
            kept=num_embeds * kept,
            copies=2 * self.counts[name].products * passes * self.is_mixed,
            during=num_embeds * 2 * self.stream * d,
            forward=max(turning, num_embeds * 2 * self.stream * width),
            backward=num_embeds * (2 * self.stream * width * passes + self.product * d),
            gradients=self.gradients(name),
        )

    def _words(self, passes: bool) -> list[_Stage]:
        text = self.config.text_config
        d, f, q, kv = self._text_sizes()
        tokens, learns = self.batch_size * self.seq_len, self.learns["language_model"]
        words = _Stage("embed_tokens", forward=3 * tokens * self.stream * d, gradients=self.gradients("embed_tokens"))
        needed = self.stream * 2 * d + self.product * 3 * f
        counts = self.counts["language_model"]
        stage = _Stage(
            "language_model",
            kept=tokens * self._kept_by_decoder_layer(learns) * passes,
            copies=2 * counts.products / text.num_hidden_layers * self.is_mixed * passes,
            forward=tokens * (self.stream * 2 * d if passes else needed),
            backward=tokens * needed * passes,
            gradients=(self.gradients("language_model") + 4 * self.num_adapter_parameters) / text.num_hidden_layers,
        )
        if self.checkpointing and passes:
            stage = self._checkpointed(stage, tokens * self.stream * d)
        return [words, *[stage] * text.num_hidden_layers]

    def _kept_by_decoder_layer(self, learns: bool) -> float:
        """Returns the bytes per token that a decoder layer keeps for its backward pass."""
        d, f, q, kv = self._text_sizes()
        kept = 2 * 4 * d + self.product * (2 * q + 2 * kv) + 4 * self.config.text_config.num_attention_heads
        kept += self.product * 3 * f
        if learns:
            kept += 2 * self.stream * d + (5 if self.is_mixed else 2) * self.product * d + self.product * f
        if self.lora_rank:
            inputs = sum(width for width, _ in self._products())
            plain = 4 * (2 * d + f) if self.weight == 4 else 4 * inputs
            copies = 2 * inputs if self.is_mixed else plain
            kept += copies + 4 * self.lora_rank * len(self._products())
        return kept

    def _head(self, passes: bool) -> list[_Stage]:
        tokens, text = self.batch_size * self.seq_len, self.config.text_config
        # only where there are labels: at most the words
        d, logits = text.hidden_size, self.batch_size * self.text_tokens * text.vocab_size
        learns = self.learns["lm_head"]
        norm = 4 + self.stream * self.learns["language_model"]
        head = _Stage(
            "lm_head",
            kept=tokens * d * (norm * passes + self.product * learns),
            copies=2 * self.counts["lm_head"].products * self.is_mixed,
            during=logits * self.product,
            backward=logits * self.product,
            gradients=self.gradients("lm_head"),
        )
        upcast = 0 if self.product == 4 else 4
        return [head, _Stage("loss", kept=4 * logits, forward=upcast * logits, backward=8 * logits)]


def _peak(stages: list[_Stage]) -> tuple[float, str]:
    """Finds the most bytes that a step holds beside weights and state, and when."""
    moments, held = [], 0.0
    for stage in stages:
        held += stage.kept + stage.copies + stage.during
        moments.append((held + stage.forward, f"forward pass, {stage.name}"))
    held -= sum(stage.during for stage in stages)
    for stage in reversed(stages):
        held += stage.gradients
        moments.append((held + stage.backward, f"backward pass, {stage.name}"))
        held -= stage.kept + stage.copies
    moments.append((held, "step of the optimizer"))
    return max(moments)


def _working(stages: list[_Stage]) -> float:
    """Finds the most bytes of a step that no stage keeps, but for the logits' gradients."""
    held, most = 0.0, max(stage.backward for stage in stages[:-1])
    for stage in stages:
        held += stage.during
        most = max(most, held + stage.forward)
    return most


def format_estimate(estimate: MemoryEstimate) -> str:
    """Shows an estimate as a table in GiB."""
    rows = {
        "weights": estimate.weights,
        "state of the optimizer": estimate.optimizer,
        "buckets of DDP, gathered weights": estimate.communication,
        "gradients": estimate.gradients,
        "kept by the forward pass": estimate.activations,
        "autocast's copies of weights": estimate.copies,
        "logits and their gradients": estimate.logits,
        "working memory of a layer": estimate.working,
    }
    share = estimate.num_trainable / estimate.num_parameters
    lines = [
        f"parameters: {estimate.num_parameters / 1e9:.3f} B, {estimate.num_trainable / 1e9:.3f} B of them learn "
        f"({share:.1%}); tokens in a row: {estimate.seq_len}",
        *(f"{name:32} {size / 2**30:>9.2f} GiB" for name, size in rows.items() if size),
        f"{'peak':32} {estimate.total / 2**30:>9.2f} GiB  ({estimate.when})",
        "The rows are not all there at the same time, so the peak is at most their sum. It is an estimate by formula, "
        f"{MEASURED_ERROR} for a small model. On a GPU, add 1 to 2 GiB for its context and libraries, and some for "
        "fragmentation.",
    ]
    return "\n".join(lines)
