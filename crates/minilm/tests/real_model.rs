//! all-MiniLM-L6-v2 itself, against the float64 reference. Without the model the tests pass, and say in a line that
//! they were skipped.

mod common;

use std::sync::OnceLock;

use common::{largest_difference, real_model};
use minilm::{Error, MAX_TOKENS, Model, ModelOptions, cosine};
use warpfold::{DType, Device};

#[derive(serde::Deserialize)]
struct Reference {
    sentences: Vec<String>,
    embeddings: Vec<Vec<f64>>,
    similarity: Vec<Vec<f64>>,
    bank: Bank,
}

#[derive(serde::Deserialize)]
struct Bank {
    river: String,
    money: String,
    cosine_river_money: f64,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("data/minilm_reference.json")).unwrap()
}

fn load(device: Device, dtype: DType) -> Option<Model> {
    let folder = real_model()?;
    Some(ModelOptions::new(folder).device(device).dtype(dtype).load().unwrap())
}

/// The model on the CPU, loaded once for all tests of this file.
fn on_cpu(dtype: DType) -> Option<&'static Model> {
    static MODELS: [OnceLock<Option<Model>>; 3] = [const { OnceLock::new() }; 3];
    let place = match dtype {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    };
    MODELS[place].get_or_init(|| load(Device::cpu(), dtype)).as_ref()
}

/// Bounds of an embedding's component and of the cosine of two token vectors.
fn bounds(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F16 => (1e-3, 1e-3),
        DType::BF16 => (5e-3, 1e-2),
        _ => (2e-5, 1e-4),
    }
}

/// Embeddings, similarities and the two banks against the reference.
fn check_reference(model: &Model) {
    let reference = reference();
    let (of_component, of_cosine) = bounds(model.dtype());
    let embeddings = model.embed(&reference.sentences).unwrap();
    for (row, embedding) in embeddings.iter().enumerate() {
        let difference = largest_difference(embedding.as_slice(), reference.embeddings[row].iter().copied());
        assert!(difference <= of_component, "{model:?}, sentence {row}: {difference:e}");
        for (column, other) in embeddings.iter().enumerate() {
            let difference = (embedding.cosine(other) - reference.similarity[row][column]).abs();
            assert!(difference <= of_cosine, "{model:?}, similarity {row} {column}: {difference:e}");
        }
    }
    let bank = |sentence| model.token_vectors(sentence).unwrap().of("bank").unwrap().to_vec();
    let ours = cosine(&bank(&reference.bank.river), &bank(&reference.bank.money));
    let difference = (ours - reference.bank.cosine_river_money).abs();
    assert!(difference <= of_cosine, "{model:?}, the two banks: {difference:e}");
}

#[test]
fn the_cpu_gives_the_reference_in_every_type() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let Some(model) = on_cpu(dtype) else { return };
        check_reference(model);
    }
}

#[cfg(feature = "emulator")]
#[test]
fn the_compiled_kernels_give_the_reference() {
    let device = match Device::emulator(warpfold::variants::Arch::Sm80) {
        Ok(device) => device,
        Err(error) => return common::skipped(error),
    };
    for dtype in [DType::F16, DType::BF16] {
        let Some(model) = load(device.clone(), dtype) else { return };
        check_reference(&model);
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_gpu_gives_the_reference() {
    let (device, reason) = minilm::best_device();
    if device == Device::cpu() {
        return common::skipped(reason);
    }
    for dtype in [DType::F16, DType::BF16] {
        let Some(model) = load(device.clone(), dtype) else { return };
        check_reference(&model);
    }
}

/// Numbers from vocab.txt of the package: a token's number is its line.
#[test]
fn tokens_are_those_of_the_vocabulary() {
    let Some(model) = on_cpu(DType::F32) else { return };
    let tokens = model.tokens("The teacher taught the students with the book.").unwrap();
    assert_eq!(tokens.ids, [101, 1996, 3836, 4036, 1996, 2493, 2007, 1996, 2338, 1012, 102]);
    let tokens = model.tokens("WARPFOLD café!").unwrap();
    assert_eq!(tokens.texts, ["[CLS]", "warp", "##fold", "cafe", "!", "[SEP]"]);
    assert_eq!(tokens.ids, [101, 24136, 10371, 7668, 999, 102]);
}

#[test]
fn the_longest_sentence_fits_and_one_token_more_does_not() {
    let Some(model) = on_cpu(DType::F32) else { return };
    let longest = "river ".repeat(MAX_TOKENS - 2);
    assert_eq!(model.embed(&[&longest]).unwrap()[0].as_slice().len(), 384);
    let error = model.embed(&[format!("{longest} river")]).unwrap_err();
    assert!(matches!(error, Error::SentenceTooLong { index: 0, tokens: 257, limit: 256 }), "{error:?}");
}

#[test]
fn one_token_at_a_time_gives_the_same_embedding() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let Some(model) = on_cpu(dtype) else { return };
        let sentence = &reference().sentences[1];
        let difference = model
            .embed_one_token_at_a_time(sentence)
            .unwrap()
            .largest_difference(&model.embed(&[sentence]).unwrap()[0]);
        assert!(f64::from(difference) <= bounds(dtype).0, "{dtype}: {difference:e}");
    }
}

#[test]
fn maps_are_softmax_of_the_scores() {
    let Some(model) = on_cpu(DType::F32) else { return };
    let maps = model.attention_maps("The teacher taught the students with the book.").unwrap();
    assert_eq!((maps.layers, maps.heads, maps.tokens.len()), (6, 12, 11));
    // Scores reach some tens, which f32 holds to some millionths; so are the shares.
    assert!(maps.difference_from_softmax < 2e-5, "{:e}", maps.difference_from_softmax);
    // Head 3 of layer 1 looks at the token before.
    let map = maps.map(0, 2);
    for query in 2..10 {
        assert!(map[query * 11 + query - 1] > 0.5, "token {query}: {}", map[query * 11 + query - 1]);
    }
}
