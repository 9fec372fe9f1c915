//! Why a `model_type` is not supported, and what can be done instead.

use serde_json::{Map, Value};

/// What keeps a model from being run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// Layers with a state that runs along the sequence.
    StateSpace,
    /// Attention without a softmax, whose state is a matrix.
    LinearAttention,
    /// Another encoder reads images beside a language model.
    Images,
    /// Sound goes in, or comes out.
    Sound,
    /// A text is read by one stack and another is written, and not as T5 does it.
    EncoderDecoder,
    /// Attention, MLPs or experts with parts that no file here has.
    OtherBlocks,
    /// An encoder of texts with parts that no file here has.
    OtherEncoder,
    /// A network of images that is none of ours.
    OtherVision,
}

use Obstacle::{EncoderDecoder, Images, LinearAttention, OtherBlocks, OtherEncoder, OtherVision, Sound, StateSpace};

/// Values of `model_type` by what stands in the way.
const OBSTACLES: &[(Obstacle, &[&str])] = &[
    (
        StateSpace,
        &[
            "mamba",
            "mamba2",
            "falcon_mamba",
            "falcon_h1",
            "jamba",
            "bamba",
            "zamba",
            "zamba2",
            "nemotron_h",
            "granitemoehybrid",
            "recurrent_gemma",
            "rwkv",
            "xlstm",
            "plamo2",
        ],
    ),
    (
        LinearAttention,
        &[
            "qwen3_next",
            "qwen3_5",
            "qwen3_5_text",
            "qwen3_5_moe",
            "qwen3_5_moe_text",
            "kimi_linear",
            "minimax",
            "olmo_hybrid",
            "bailing_hybrid",
            "gla",
            "retnet",
        ],
    ),
    (
        Images,
        &[
            "llava",
            "llava_next",
            "llava_next_video",
            "llava_onevision",
            "video_llava",
            "vipllava",
            "qwen2_vl",
            "qwen2_5_vl",
            "qwen3_vl",
            "qwen3_vl_moe",
            "mllama",
            "llama4",
            "mistral3",
            "pixtral",
            "paligemma",
            "gemma3n",
            "gemma4",
            "shieldgemma2",
            "idefics",
            "idefics2",
            "idefics3",
            "smolvlm",
            "internvl",
            "aya_vision",
            "cohere2_vision",
            "phi3_v",
            "florence2",
            "blip",
            "blip-2",
            "instructblip",
            "kosmos-2",
            "fuyu",
            "git",
            "janus",
            "glm4v",
            "glm4v_moe",
            "deepseek_vl",
            "deepseek_vl_hybrid",
            "molmo2",
            "ovis2",
            "lfm2_vl",
            "colpali",
            "colqwen2",
            "got_ocr2",
            "chameleon",
            "emu3",
            "minicpmv",
            "kimi_k25",
            "clip",
            "siglip",
            "siglip2",
        ],
    ),
    (
        Sound,
        &[
            "whisper",
            "wav2vec2",
            "wav2vec2-bert",
            "wavlm",
            "hubert",
            "speecht5",
            "seamless_m4t",
            "seamless_m4t_v2",
            "moonshine",
            "qwen2_audio",
            "qwen2_5_omni",
            "qwen3_omni_moe",
            "voxtral",
            "phi4_multimodal",
            "musicgen",
            "bark",
            "csm",
            "dia",
            "kyutai_speech_to_text",
            "granite_speech",
        ],
    ),
    (
        EncoderDecoder,
        &[
            "bart",
            "mbart",
            "pegasus",
            "pegasus_x",
            "marian",
            "blenderbot",
            "m2m_100",
            "nllb-moe",
            "led",
            "longt5",
            "umt5",
            "switch_transformers",
            "prophetnet",
            "fsmt",
            "t5gemma",
            "t5gemma2",
            "encoder-decoder",
            "plbart",
        ],
    ),
    (
        OtherBlocks,
        &[
            "gpt_neo",
            "gpt_bigcode",
            "gpt_oss",
            "falcon",
            "bloom",
            "mpt",
            "phi",
            "phimoe",
            "stablelm",
            "starcoder2",
            "cohere",
            "cohere2",
            "granite",
            "granitemoe",
            "glm",
            "glm4",
            "glm4_moe",
            "deepseek_v2",
            "deepseek_v3",
            "ernie4_5",
            "ernie4_5_moe",
            "exaone4",
            "hunyuan_v1_dense",
            "lfm2",
            "lfm2_moe",
            "minimax_m2",
            "ministral",
            "ministral3",
            "mistral4",
            "nemotron",
            "arcee",
            "apertus",
            "dbrx",
            "gemma3n_text",
            "gemma4_text",
            "llama4_text",
            "olmo_1124",
            "persimmon",
            "codegen",
            "xglm",
            "biogpt",
            "ctrl",
            "openai-gpt",
            "seed_oss",
            "helium",
            "diffllama",
            "bitnet",
            "vaultgemma",
            "modernbert-decoder",
            "longcat_flash",
            "flex_olmo",
            "internlm3",
        ],
    ),
    (
        OtherEncoder,
        &[
            "deberta",
            "albert",
            "electra",
            "xlnet",
            "mpnet",
            "camembert",
            "longformer",
            "big_bird",
            "funnel",
            "layoutlm",
            "layoutlmv3",
            "mobilebert",
            "squeezebert",
            "rembert",
            "ernie",
            "nomic_bert",
            "eurobert",
            "esm",
            "flaubert",
            "xlm",
            "xlm-roberta-xl",
            "xmod",
            "roformer",
            "convbert",
            "megatron-bert",
        ],
    ),
    (
        OtherVision,
        &[
            "deit",
            "beit",
            "swin",
            "swinv2",
            "convnext",
            "convnextv2",
            "dinov2",
            "dinov2_with_registers",
            "dinov3_vit",
            "dinov3_convnext",
            "efficientnet",
            "mobilenet_v1",
            "mobilenet_v2",
            "mobilevit",
            "regnet",
            "levit",
            "pvt",
            "vit_mae",
            "vit_msn",
            "timm_wrapper",
            "segformer",
            "detr",
            "yolos",
            "bit",
            "focalnet",
            "hiera",
        ],
    ),
];

impl Obstacle {
    /// What stands in the way of a model of this type; none if nothing is known of the type.
    fn of(model_type: &str, keys: &Map<String, Value>) -> Option<Self> {
        let listed = OBSTACLES.iter().find(|(_, types)| types.contains(&model_type)).map(|(obstacle, _)| *obstacle);
        let has = |key: &str| keys.contains_key(key);
        let found = listed.or_else(|| (has("vision_config") || has("vision_tower")).then_some(Images));
        found.or_else(|| has("audio_config").then_some(Sound))
    }

    /// What it is, behind "a".
    fn reason(self) -> &'static str {
        match self {
            StateSpace => "a model with state-space or recurrent layers",
            LinearAttention => "a model with linear attention",
            Images => "a model of images and text",
            Sound => "a model of sound",
            EncoderDecoder => "an encoder with a decoder that is not T5's",
            OtherBlocks => "a decoder with blocks that no supported model has",
            OtherEncoder => "an encoder of texts with blocks that no supported model has",
            OtherVision => "a network of images that is neither `vit` nor `resnet`",
        }
    }

    /// What can be done.
    fn instead(self) -> &'static str {
        match self {
            StateSpace | LinearAttention => {
                "no layer of this crate carries a state along a sequence: attribute a model of the same data with softmax \
                 attention, or write the recurrence as a model of your own in Rust (docs/own-model.md)"
            }
            Images => {
                "if the language model inside is of a supported type and was trained on text, save it by itself (its own \
                 class, such as `Qwen2ForCausalLM`, with its weights and `save_pretrained`), and give that folder; of \
                 Gemma 3 the text part is read as it lies"
            }
            Sound => {
                "inputs are tokens, images and rows of numbers; features of sound can be the rows of a `cnn` or an `mlp`"
            }
            EncoderDecoder => "of models that read one text and write another `t5` and `mt5` are read",
            OtherBlocks => {
                "build it in Rust from this crate's layers (docs/own-model.md); if its blocks are Llama's but for the name, save \
                 it as `LlamaForCausalLM`"
            }
            OtherEncoder => {
                "fine-tune `bert`, `roberta`, `xlm-roberta`, `distilbert`, `modernbert` or `deberta-v2` (DeBERTa v2 and v3) on \
                 the same data, or build it in Rust from this crate's layers: docs/own-model.md"
            }
            OtherVision => {
                "a network of convolutions can be described as a `cnn` (docs/vision.md); others can be built in Rust from \
                 this crate's layers: docs/own-model.md"
            }
        }
    }
}

/// What a `model_type` is, as an error says it; empty if it is unknown.
pub(super) fn reason(model_type: &str, keys: &Map<String, Value>) -> &'static str {
    Obstacle::of(model_type, keys).map_or("", Obstacle::reason)
}

/// What can be done instead of running a `model_type`; none if it is unknown.
pub(super) fn instead(model_type: &str, keys: &Map<String, Value>) -> Option<&'static str> {
    Obstacle::of(model_type, keys).map(Obstacle::instead)
}

/// What can be done about a value of a key that is not supported; none where the key says it all.
pub(super) fn instead_of_option(key: &str, value: Option<&Value>) -> Option<&'static str> {
    match key {
        "quantization_config" | "compression_config" => {
            let method = value.and_then(|value| value.get("quant_method")).and_then(Value::as_str);
            Some(match method {
                Some("mxfp4") => {
                    "weights are read unpacked: load the model with `quantization_config=Mxfp4Config(dequantize=True)`, and                      save it with `save_pretrained`"
                }
                Some("fp8") => {
                    "weights are read unpacked: load the model with \
                     `quantization_config=FineGrainedFP8Config(dequantize=True)`, and save it with `save_pretrained`"
                }
                _ => {
                    "weights are read unpacked: give the model from which this one was quantised (for an adapter \
                     `--base DIR`), or unpack it in Python with `model.dequantize()` and `save_pretrained`"
                }
            })
        }
        "pruned_heads" => Some("load the model with transformers and save it: then the weights have their new shapes"),
        "use_bidirectional_attention" | "is_causal" => Some(
            "attention that sees both ways is supported in encoders: `bert`, `roberta`, `distilbert`, `modernbert`, `deberta-v2`",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::supported::supported;

    #[test]
    fn no_type_has_two_obstacles_or_is_supported() {
        let all: Vec<&str> = OBSTACLES.iter().flat_map(|(_, types)| types.iter().copied()).collect();
        let distinct: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), distinct.len());
        let both: Vec<&str> = supported().filter(|kind| distinct.contains(kind)).collect();
        assert_eq!(both, [""; 0]);
    }
}
