//! Random problems as JSON: what `warpfold check` prints is what it reads.

use crate::common::attention::Operand;
use crate::common::rows::NormOperand;
use crate::common::rows::softmax::SoftmaxOperand;
use crate::common::{DTYPES, Placement};
use crate::recipes::{Case, Operation};
use proptest::test_runner::{Config, TestRunner};
use warpfold::DType;

/// And what is drawn makes sense.
#[test]
fn every_case_is_read_as_it_was_written() {
    for operation in Operation::ALL {
        for on_cpu in [true, false] {
            let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
            let written_and_read = |case: Case| {
                assert_eq!(case.operation(), operation);
                assert_eq!(Case::from_json(operation, &case.to_json()).as_ref(), Ok(&case));
                Ok(())
            };
            runner
                .run(&operation.cases(on_cpu), written_and_read)
                .unwrap_or_else(|error| panic!("{operation}: {error}"));
        }
    }
}

/// What shrinking tries first of everything is one query, one key head, one float type, and no options.
#[test]
fn the_simplest_cases_are_short() {
    for (operation, json) in [
        (
            Operation::Attention,
            r#"{"dtype":"f32","batch":1,"heads_q":1,"heads_kv":1,"len_q":1,"len_kv":0,"head_dim":8,"seed":0}"#,
        ),
        (Operation::Softmax, r#"{"dtype":"f32","shape":[1,1],"seed":0}"#),
        (Operation::Norm, r#"{"kind":"rms","shape":[1,1],"eps":0.25,"seed":0}"#),
    ] {
        let case = Case::from_json(operation, json).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(case.to_json(), json);
        let mut runner = TestRunner::new(Config {
            failure_persistence: None,
            result_cache: proptest::test_runner::basic_result_cache,
            ..Config::default()
        });
        let shrunk = runner.run(&operation.cases(false), |_| Err(proptest::test_runner::TestCaseError::fail("always")));
        let Err(proptest::test_runner::TestError::Fail(_, shrunk)) = shrunk else { panic!("nothing failed") };
        assert_eq!(shrunk, case);
    }
}

#[test]
fn tensors_have_their_names() {
    let operands =
        [(Operand::Q, "q"), (Operand::Mask, "mask"), (Operand::DOutput, "d_output"), (Operand::DBias, "d_bias")];
    for (operand, name) in operands {
        let json = r#"{"dtype":"f16","batch":1,"heads_q":1,"heads_kv":1,"len_q":1,"len_kv":1,"head_dim":8,"seed":0,"#;
        let json = format!(r#"{json}"placements":{{"{name}":"padded"}}}}"#);
        let Ok(Case::Attention(recipe)) = Case::from_json(Operation::Attention, &json) else { panic!("{json}") };
        let placements = recipe.attempt().placements;
        let is_padded = |index: usize| placements[index] == Placement::Padded;
        assert!((0..placements.len()).all(|index| is_padded(index) == (index == operand as usize)), "{name}");
    }
    for (operand, name) in [(SoftmaxOperand::X, "x"), (SoftmaxOperand::Y, "y"), (SoftmaxOperand::DX, "d_x")] {
        let json = format!(r#"{{"dtype":"f16","shape":[1,1],"seed":0,"placements":{{"{name}":"misaligned"}}}}"#);
        let Ok(Case::Softmax(recipe)) = Case::from_json(Operation::Softmax, &json) else { panic!("{json}") };
        assert_eq!(recipe.attempt().placements[operand as usize], Placement::Misaligned, "{name}");
    }
    for (operand, name) in [(NormOperand::X, "x"), (NormOperand::Sum, "sum"), (NormOperand::DResidual, "d_residual")] {
        let json = format!(r#"{{"kind":"layer","shape":[1,1],"seed":0,"dtypes":{{"{name}":"bf16"}}}}"#);
        let Ok(Case::Norm(recipe)) = Case::from_json(Operation::Norm, &json) else { panic!("{json}") };
        assert_eq!(recipe.attempt().dtype(operand), DType::BF16, "{name}");
    }
    // One word is for all.
    for dtype in DTYPES {
        let json = format!(r#"{{"kind":"layer","shape":[1,1],"seed":0,"dtypes":"{dtype}"}}"#);
        let Ok(Case::Norm(recipe)) = Case::from_json(Operation::Norm, &json) else { panic!("{json}") };
        assert!(recipe.attempt().dtypes.iter().all(|own| *own == dtype), "{dtype}");
    }
}

/// Before anything runs, and with the values.
#[test]
fn what_makes_no_sense_is_refused() {
    let attention = |rest: &str| {
        format!(
            r#"{{"dtype":"f32","batch":2,"heads_q":4,"heads_kv":2,"len_q":3,"len_kv":5,"head_dim":8,"seed":0{rest}}}"#
        )
    };
    assert!(Case::from_json(Operation::Attention, &attention("")).is_ok());
    for (rest, part) in [
        (r#","lenq":3"#, "unknown field `lenq`"),
        (r#","key_lengths":[1]"#, "one for each of 2 sequences"),
        (r#","key_lengths":[1,6]"#, "[1, 6] is 6; it must be at most 5"),
        (r#","query_lengths":[1,3]"#, "need key_lengths"),
        (r#","query_lengths":[1,2],"key_lengths":[5,5]"#, "[1, 2] is 2; it must be 3"),
        (r#","key_range":[4,2]"#, "[4, 2]"),
        (r#","bias":[2,2,3,5]"#, "[2, 2, 3, 5]"),
        (r#","placements":"nowhere""#, r#""nowhere" is no placement"#),
        (r#","placements":{"p":"padded"}"#, r#""p" is no tensor here"#),
        (r#","placements":{"q":"padded","q":"padded"}"#, "twice"),
        (r#","cuts":[1]"#, "cuts belong to split, not to attention"),
        (r#","d_lse":true"#, "d_lse belongs to attention-backward, not to attention"),
        (r#","alibi":"per_key""#, "per_key"),
    ] {
        let error = Case::from_json(Operation::Attention, &attention(rest)).expect_err(rest);
        assert!(error.contains(part), "{rest}: {error}");
    }
    for (operation, json, part) in [
        (Operation::Softmax, r#"{"dtype":"f32","shape":[3],"seed":0}"#, "[3]"),
        (Operation::Softmax, r#"{"dtype":"f32","shape":[3,0],"seed":0}"#, "[3, 0]"),
        (Operation::Softmax, r#"{"dtype":"f32","shape":[3,5],"bias":[2,5],"seed":0}"#, "[2, 5]"),
        (Operation::Softmax, r#"{"dtype":"u8","shape":[3,5],"seed":0}"#, r#""u8" is no element type"#),
        (Operation::Norm, r#"{"kind":"rms","shape":[4294967296,4294967296],"seed":0}"#, "[4294967296, 4294967296]"),
        (Operation::Norm, r#"{"kind":"rms","shape":[1,2]"#, "EOF"),
    ] {
        let error = Case::from_json(operation, json).expect_err(json);
        assert!(error.contains(part), "{json}: {error}");
    }
}
