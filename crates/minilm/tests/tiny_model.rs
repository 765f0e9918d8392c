//! The whole encoder, held to a plain f64 one on a tiny random model.

mod common;

use common::{FOR_KERNELS, ODD, Tiny, largest_difference};
use minilm::{Model, ModelOptions};
use warpfold::{DType, Device};

/// Sentences of unequal length, so that a batch of them is padded.
const SENTENCES: [&str; 4] = ["The boat is by the river.", "a bank", "Walks to the water, the river, the boats.", "."];

fn load(tiny: &Tiny, device: &Device, dtype: DType) -> Model {
    ModelOptions::new(tiny.path()).device(device.clone()).dtype(dtype).load().unwrap()
}

/// Errors of a component that rounding alone explains, for these sizes.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 4e-3,
        DType::BF16 => 3e-2,
        _ => 2e-6,
    }
}

/// Everything that the model offers, against f64.
fn check(tiny: &Tiny, device: &Device, dtype: DType) {
    let model = load(tiny, device, dtype);
    let tolerance = tolerance(dtype);
    let embeddings = model.embed(&SENTENCES).unwrap();
    for (sentence, embedding) in SENTENCES.iter().zip(&embeddings) {
        let ids = model.tokens(sentence).unwrap().ids;
        let expected = tiny.expected(&ids);
        let difference = largest_difference(embedding.as_slice(), expected.embedding());
        assert!(difference <= tolerance, "embedding of {sentence} in {dtype} on {device}: {difference:e}");

        let one_by_one = model.embed_one_token_at_a_time(sentence).unwrap();
        let difference = largest_difference(one_by_one.as_slice(), expected.embedding());
        assert!(difference <= tolerance, "one token at a time, {sentence} in {dtype} on {device}: {difference:e}");

        // A state is several times as long as an embedding's component.
        let vectors = model.token_vectors(sentence).unwrap();
        for (index, state) in expected.states.iter().enumerate() {
            let difference = largest_difference(vectors.vector(index), state.iter().copied());
            assert!(
                difference <= 10.0 * tolerance,
                "state {index} of {sentence} in {dtype} on {device}: {difference:e}"
            );
        }

        let maps = model.attention_maps(sentence).unwrap();
        for (layer, heads) in expected.probabilities.iter().enumerate() {
            for (head, expected) in heads.iter().enumerate() {
                let map = maps.map(layer, head);
                let difference = largest_difference(map, expected.iter().flatten().copied());
                assert!(
                    difference <= 4.0 * tolerance,
                    "map {layer} {head} of {sentence} in {dtype} on {device}: {difference:e}"
                );
                for row in map.chunks_exact(ids.len()) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                }
            }
        }
        assert!(maps.difference_from_softmax < 1e-5, "{:e}", maps.difference_from_softmax);
    }
}

#[test]
fn the_encoder_is_the_plain_one_in_every_type() {
    let tiny = Tiny::new(ODD);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        check(&tiny, &Device::cpu(), dtype);
    }
}

#[test]
fn the_types_are_really_used() {
    let tiny = Tiny::new(ODD);
    let embed = |dtype| load(&tiny, &Device::cpu(), dtype).embed(&SENTENCES[..1]).unwrap().remove(0);
    let exact = embed(DType::F32);
    let [f16, bf16] = [DType::F16, DType::BF16].map(|dtype| exact.largest_difference(&embed(dtype)));
    assert!(f16 > 1e-5 && bf16 > 4.0 * f16, "f16 differs by {f16:e}, bf16 by {bf16:e}");
}

#[test]
fn padding_does_not_reach_a_result() {
    let tiny = Tiny::new(ODD);
    let model = load(&tiny, &Device::cpu(), DType::F32);
    let together = model.embed(&SENTENCES).unwrap();
    for (sentence, together) in SENTENCES.iter().zip(&together) {
        let alone = model.embed(&[sentence]).unwrap().remove(0);
        assert!(alone.largest_difference(together) < 1e-6, "{sentence}");
    }
}

#[test]
fn more_sentences_than_a_batch_keep_their_order() {
    let tiny = Tiny::new(ODD);
    let model = load(&tiny, &Device::cpu(), DType::F32);
    let sentences: Vec<&str> = SENTENCES.iter().cycle().take(75).copied().collect();
    let mut heard = Vec::new();
    let embeddings = model.embed_with(&sentences, |done| heard.push(done)).unwrap();
    assert_eq!(heard, [32, 64, 75]);
    for (index, embedding) in embeddings.iter().enumerate() {
        assert!(embedding.largest_difference(&embeddings[index % 4]) < 1e-6, "sentence {index}");
    }
    assert!((embeddings[0].cosine(&embeddings[4]) - 1.0).abs() < 1e-6);
    assert!(embeddings[0].cosine(&embeddings[1]) < 0.999);
}

#[test]
fn a_tokenizers_own_padding_and_truncation_do_not_count() {
    let tiny = Tiny::new(ODD);
    let model = load(&tiny, &Device::cpu(), DType::F32);
    let tokens = model.tokens("The boats walk to the river").unwrap();
    assert_eq!(tokens.texts, ["[CLS]", "the", "boat", "##s", "walk", "to", "the", "river", "[SEP]"]);
    assert_eq!(tokens.ids, [2, 12, 7, 9, 14, 13, 12, 11, 3]);
    assert!(tokens.is_special[0] && tokens.is_special[8] && !tokens.is_special[1..8].contains(&true));
    assert!(!tokens.is_truncated());
}

#[test]
fn truncation_keeps_the_last_special_token() {
    let tiny = Tiny::new(ODD);
    let model = ModelOptions::new(tiny.path()).truncate(true).load().unwrap();
    let long = "the river ".repeat(20);
    let tokens = model.tokens(&long).unwrap();
    assert_eq!((tokens.len(), tokens.full_length), (ODD.positions, 42));
    assert!(tokens.is_truncated());
    assert_eq!((tokens.texts[ODD.positions - 2].as_str(), tokens.texts[ODD.positions - 1].as_str()), ("the", "[SEP]"));
    let difference =
        largest_difference(model.embed(&[&long]).unwrap()[0].as_slice(), tiny.expected(&tokens.ids).embedding());
    assert!(difference < 2e-6, "{difference:e}");
}

#[test]
fn maps_without_special_tokens_are_rescaled() {
    let tiny = Tiny::new(ODD);
    let model = load(&tiny, &Device::cpu(), DType::F32);
    let all = model.attention_maps("the boat is by the river").unwrap();
    let maps = all.without_special_tokens();
    assert_eq!(maps.tokens.texts, ["the", "boat", "is", "by", "the", "river"]);
    for layer in 0..maps.layers {
        for head in 0..maps.heads {
            for (query, row) in maps.map(layer, head).chunks_exact(6).enumerate() {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                // Rescaling keeps the proportions.
                let full = &all.map(layer, head)[(query + 1) * 8..][1..7];
                assert!((row[0] * full[3] - row[3] * full[0]).abs() < 1e-6);
            }
        }
    }
}

#[cfg(feature = "emulator")]
#[test]
fn the_encoder_is_the_plain_one_on_the_compiled_kernels() {
    let device = match Device::emulator(warpfold::variants::Arch::Sm80) {
        Ok(device) => device,
        Err(error) => return common::skipped(error),
    };
    let tiny = Tiny::new(FOR_KERNELS);
    for dtype in [DType::F16, DType::BF16] {
        check(&tiny, &device, dtype);
    }
}

#[cfg(feature = "cuda")]
#[test]
fn the_encoder_is_the_plain_one_on_a_gpu() {
    let (device, reason) = minilm::best_device();
    if device == Device::cpu() {
        return common::skipped(reason);
    }
    let tiny = Tiny::new(FOR_KERNELS);
    for dtype in [DType::F16, DType::BF16] {
        check(&tiny, &device, dtype);
    }
    let error = ModelOptions::new(tiny.path()).device(device).dtype(DType::F32).load().unwrap_err();
    assert!(matches!(error, minilm::Error::UnsupportedDType { dtype: DType::F32, .. }), "{error:?}");
}

#[test]
fn sizes_for_kernels_work_on_the_cpu_too() {
    check(&Tiny::new(FOR_KERNELS), &Device::cpu(), DType::F16);
}
