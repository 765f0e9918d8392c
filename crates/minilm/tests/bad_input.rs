//! Each fault of a model's files and of a sentence has an error of its own that says what is wrong.

mod common;

use std::fs;

use common::{ODD, Sizes, Tiny};
use minilm::{Error, Model, ModelOptions};
use warpfold::{DType, Device};

fn load(tiny: &Tiny) -> Result<Model, Error> {
    ModelOptions::new(tiny.path()).load()
}

/// A tiny model after some damage: the error of loading it, which must name the file.
fn broken(file: &str, damage: impl FnOnce(&mut Tiny)) -> Error {
    let mut tiny = Tiny::new(ODD);
    damage(&mut tiny);
    let error = load(&tiny).expect_err("the model is damaged");
    assert!(error.to_string().contains(file), "{error}");
    error
}

#[test]
fn a_missing_file() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let error = broken(file, |tiny| fs::remove_file(tiny.file(file)).unwrap());
        assert!(matches!(&error, Error::MissingFile { path } if path.ends_with(file)), "{error:?}");
        assert!(error.to_string().contains("cargo xtask model"), "{error}");
    }
    let error = ModelOptions::new("there/is/no/such/folder").load().unwrap_err();
    assert!(matches!(error, Error::MissingFile { .. }), "{error:?}");
}

#[test]
fn a_file_that_cannot_be_read() {
    let error = broken("model.safetensors", |tiny| {
        fs::remove_file(tiny.file("model.safetensors")).unwrap();
        fs::create_dir(tiny.file("model.safetensors")).unwrap();
    });
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
}

#[test]
fn truncated_weights() {
    // Within the header's length, within the header, at its end, and one byte before the end.
    let full = fs::read(Tiny::new(ODD).file("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(full[..8].try_into().unwrap()) as usize;
    for length in [0, 7, 100, header, full.len() - 1] {
        let error =
            broken("model.safetensors", |tiny| fs::write(tiny.file("model.safetensors"), &full[..length]).unwrap());
        match &error {
            Error::WeightsFormat { size_bytes, .. } => assert_eq!(*size_bytes, length),
            _ => panic!("{length} bytes: {error:?}"),
        }
        assert!(error.to_string().contains(&format!("{length} bytes")), "{error}");
    }
}

#[test]
fn weights_of_another_model() {
    let error = broken("model.safetensors", |tiny| {
        tiny.tensors.remove("encoder.layer.1.output.dense.bias").unwrap();
        tiny.write_weights(&tiny.tensors);
    });
    assert!(matches!(&error, Error::MissingTensor { tensor, .. } if tensor == "encoder.layer.1.output.dense.bias"));

    let error = broken("model.safetensors", |tiny| {
        tiny.tensors.insert("encoder.layer.2.output.dense.bias".into(), (vec![3], vec![0.0; 3]));
        tiny.write_weights(&tiny.tensors);
    });
    assert!(
        matches!(&error, Error::UnexpectedTensors { tensors, .. } if tensors == &["encoder.layer.2.output.dense.bias"])
    );

    let error = broken("model.safetensors", |tiny| {
        let config = tiny.config().to_string().replace("\"hidden_size\":24", "\"hidden_size\":27");
        fs::write(tiny.file("config.json"), config).unwrap();
    });
    match &error {
        Error::TensorShape { shape, expected, .. } => assert_eq!((shape[1], expected[1]), (24, 27)),
        _ => panic!("{error:?}"),
    }

    // Transposed, it has as many elements.
    let error = broken("model.safetensors", |tiny| {
        let (shape, _) = tiny.tensors.get_mut("encoder.layer.0.intermediate.dense.weight").unwrap();
        shape.reverse();
        tiny.write_weights(&tiny.tensors);
    });
    assert!(
        matches!(&error, Error::TensorShape { shape, expected, .. } if *shape == [24, 41] && *expected == [41, 24])
    );
}

#[test]
fn weights_of_another_type() {
    let error = broken("model.safetensors", |tiny| {
        // As many bytes a tensor, but they are integers.
        let bytes = fs::read(tiny.file("model.safetensors")).unwrap();
        let length = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..length].to_vec()).unwrap().replace("\"F32\"", "\"I32\"");
        fs::write(tiny.file("model.safetensors"), [&bytes[..8], header.as_bytes(), &bytes[length..]].concat()).unwrap();
    });
    assert!(matches!(&error, Error::TensorDType { dtype, .. } if dtype == "I32"), "{error:?}");
}

#[test]
fn a_weight_that_is_no_number_of_the_type() {
    let mut tiny = Tiny::new(ODD);
    tiny.tensors.get_mut("encoder.layer.0.attention.self.key.weight").unwrap().1[5] = 7e4;
    tiny.write_weights(&tiny.tensors);
    assert!(load(&tiny).is_ok());
    let error = ModelOptions::new(tiny.path()).dtype(DType::F16).load().unwrap_err();
    assert!(matches!(&error, Error::TensorValue { value, dtype: DType::F16, .. } if *value == 7e4), "{error:?}");
    tiny.tensors.get_mut("embeddings.LayerNorm.bias").unwrap().1[0] = f32::NAN;
    tiny.write_weights(&tiny.tensors);
    let error = load(&tiny).unwrap_err();
    assert!(matches!(&error, Error::TensorValue { tensor, .. } if tensor == "embeddings.LayerNorm"), "{error:?}");
}

#[test]
fn a_configuration_of_another_kind() {
    let error = broken("config.json", |tiny| fs::write(tiny.file("config.json"), "{").unwrap());
    assert!(matches!(error, Error::ConfigSyntax { .. }), "{error:?}");
    let error = broken("config.json", |tiny| {
        let mut config = tiny.config();
        config["hidden_act"] = "relu".into();
        tiny.write_config(&config);
    });
    assert!(
        matches!(&error, Error::ConfigValue { field: "hidden_act", value, .. } if value == "\"relu\""),
        "{error:?}"
    );
}

#[test]
fn a_tokenizer_of_another_model() {
    let error = broken("tokenizer.json", |tiny| fs::write(tiny.file("tokenizer.json"), "[]").unwrap());
    assert!(matches!(error, Error::Tokenizer { .. }), "{error:?}");
    let error = broken("tokenizer.json", |tiny| {
        let mut tokenizer = common::tokenizer();
        tokenizer["model"]["vocab"]["aquarium"] = 17.into();
        tiny.write_tokenizer(&tokenizer);
    });
    assert!(error.to_string().contains("token number 17, the model only 17 tokens"), "{error}");
}

#[test]
fn sentences_that_cannot_be_embedded() {
    let tiny = Tiny::new(ODD);
    let model = load(&tiny).unwrap();
    assert!(matches!(model.embed::<&str>(&[]), Err(Error::NoSentences)));
    for empty in ["", "  \t\n", "\u{200b}\u{7}"] {
        let error = model.embed(&["the river", empty]).unwrap_err();
        assert!(matches!(error, Error::EmptySentence { index: 1 }), "{empty:?}: {error:?}");
    }
    // [CLS], 18 words and [SEP] are one more than there are positions; one word less fits.
    let long = "the ".repeat(18);
    let error = model.embed(&["the river", "a bank", &long]).unwrap_err();
    assert!(matches!(error, Error::SentenceTooLong { index: 2, tokens: 20, limit: 19 }), "{error:?}");
    assert!(model.embed(&["the ".repeat(17)]).is_ok());
    assert!(matches!(model.embed_one_token_at_a_time(""), Err(Error::EmptySentence { .. })));
    assert!(matches!(model.attention_maps(""), Err(Error::EmptySentence { .. })));
}

#[test]
fn a_word_that_is_not_a_token() {
    let tiny = Tiny::new(ODD);
    let vectors = load(&tiny).unwrap().token_vectors("The boats walk").unwrap();
    assert!(vectors.of("boat").is_ok());
    let error = vectors.of("boats").unwrap_err();
    assert!(error.to_string().contains("[CLS] the boat ##s walk [SEP]"), "{error}");
}

#[test]
fn a_type_that_no_model_runs_in() {
    let tiny = Tiny::new(ODD);
    let error = ModelOptions::new(tiny.path()).device(Device::cpu()).dtype(DType::I32).load().unwrap_err();
    assert!(matches!(error, Error::UnsupportedDType { dtype: DType::I32, .. }), "{error:?}");
}

#[cfg(feature = "emulator")]
#[test]
fn a_head_dim_without_a_kernel() {
    let device = match Device::emulator(warpfold::variants::Arch::Sm80) {
        Ok(device) => device,
        Err(error) => return common::skipped(error),
    };
    // A head_dim of 6: kernels take multiples of 8.
    let tiny = Tiny::new(Sizes { heads: 4, ..ODD });
    let model = ModelOptions::new(tiny.path()).device(device).load().unwrap();
    let error = model.embed(&["the river"]).unwrap_err();
    assert!(matches!(error, Error::Warpfold(warpfold::Error::NoKernel { .. })), "{error:?}");
}
