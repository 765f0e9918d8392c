//! The model's weights as f16 for the bundle: half the size, and exactly what a run in f16 computes with. The bundle
//! turns them into f32 again, the type that the model's files have.

use anyhow::{Context, Result, bail};
use half::f16;
use serde_json::{Map, Value, json};

/// Where the bundle has the weights: in f16 with their bytes [`apart`], and as the model's loader wants them.
pub const SMALL: &str = "model/model.safetensors.f16";
#[allow(dead_code, reason = "one program packs, another unpacks")]
pub const WEIGHTS: &str = "model/model.safetensors";

/// The bundle's archive is compressed over so many bytes, as a power of two: over all of it, since its programs hold the same
/// kernels.
pub const WINDOW_LOG: u32 = 27;

/// A safetensors file with its f32 tensors rounded to f16.
#[cfg_attr(not(test), allow(dead_code, reason = "one program packs, another unpacks"))]
pub fn to_f16(file: &[u8]) -> Result<Vec<u8>> {
    convert(file, "F32", "F16", |name, bytes| {
        let mut converted = Vec::with_capacity(bytes.len() / 2);
        for &element in bytes.as_chunks::<4>().0 {
            let value = f32::from_le_bytes(element);
            let rounded = f16::from_f32(value);
            if !rounded.is_finite() {
                bail!("tensor {name} holds {value}, which f16 does not");
            }
            converted.extend(rounded.to_le_bytes());
        }
        Ok(converted)
    })
}

/// A safetensors file with its f16 tensors as f32.
#[cfg_attr(not(test), allow(dead_code, reason = "one program packs, another unpacks"))]
pub fn to_f32(file: &[u8]) -> Result<Vec<u8>> {
    convert(file, "F16", "F32", |_, bytes| {
        let elements = bytes.as_chunks::<2>().0.iter();
        Ok(elements.flat_map(|&element| f16::from_le_bytes(element).to_f32().to_le_bytes()).collect())
    })
}

/// The even bytes of a file, then the odd ones: signs and exponents of f16 lie together and compress by a tenth, where the
/// fractions between them would hide that.
#[cfg_attr(not(test), allow(dead_code, reason = "one program packs, another unpacks"))]
pub fn apart(file: &[u8]) -> Vec<u8> {
    let every_other = |from: usize| file.iter().skip(from).step_by(2).copied();
    every_other(0).chain(every_other(1)).collect()
}

/// The inverse of [`apart`].
#[cfg_attr(not(test), allow(dead_code, reason = "one program packs, another unpacks"))]
pub fn together(file: &[u8]) -> Vec<u8> {
    let (even, odd) = file.split_at(file.len().div_ceil(2));
    (0..file.len()).map(|at| if at % 2 == 0 { even[at / 2] } else { odd[at / 2] }).collect()
}

/// Rewrites a file (length of the header, header in JSON, data): tensors of type `from` become `to`, others stay.
fn convert(
    file: &[u8],
    from: &str,
    to: &str,
    convert_tensor: impl Fn(&str, &[u8]) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let (length, rest) = file.split_first_chunk::<8>().context("the weights file is truncated")?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let (header, data) = rest.split_at_checked(length).context("the weights file is truncated")?;
    let header: Map<String, Value> = serde_json::from_slice(header).context("the weights file has no valid header")?;

    let mut new_header = Map::new();
    let mut new_data: Vec<u8> = Vec::new();
    for (name, tensor) in &header {
        if name == "__metadata__" {
            new_header.insert(name.clone(), tensor.clone());
            continue;
        }
        let offset =
            |index: usize| tensor["data_offsets"][index].as_u64().and_then(|offset| usize::try_from(offset).ok());
        let bytes = offset(0).zip(offset(1)).and_then(|(begin, end)| data.get(begin..end));
        let bytes = bytes.with_context(|| format!("tensor {name} lies outside the weights file"))?;
        let begin = new_data.len();
        let dtype = if tensor["dtype"] == from {
            new_data.extend(convert_tensor(name, bytes)?);
            json!(to)
        } else {
            new_data.extend_from_slice(bytes);
            tensor["dtype"].clone()
        };
        let entry = json!({"dtype": dtype, "shape": tensor["shape"], "data_offsets": [begin, new_data.len()]});
        new_header.insert(name.clone(), entry);
    }

    let mut header = serde_json::to_vec(&new_header)?;
    // The data begins on a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([(header.len() as u64).to_le_bytes().as_slice(), &header, &new_data].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The type and the bytes of a tensor.
    fn tensor(file: &[u8], name: &str) -> (String, Vec<u8>) {
        let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
        assert_eq!(length % 8, 0);
        let (header, data) = file[8..].split_at(length);
        let header: Value = serde_json::from_slice(header).expect("the header is JSON");
        let offset = |index: usize| header[name]["data_offsets"][index].as_u64().expect("an offset") as usize;
        (header[name]["dtype"].as_str().expect("a type").to_string(), data[offset(0)..offset(1)].to_vec())
    }

    #[test]
    fn f32_is_rounded_to_f16_and_back_and_the_rest_is_kept() {
        let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}      "#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend(7_i64.to_le_bytes());
        file.extend([1.5_f32, 1.0 / 3.0].map(f32::to_le_bytes).concat());

        let small = to_f16(&file).expect("the file is valid");
        let rounded = [f16::from_f32(1.5), f16::from_f32(1.0 / 3.0)];
        assert_eq!(tensor(&small, "w"), ("F16".to_string(), rounded.map(f16::to_le_bytes).concat()));
        assert_eq!(tensor(&small, "i"), ("I64".to_string(), 7_i64.to_le_bytes().to_vec()));

        let large = to_f32(&small).expect("the file is valid");
        let widened = rounded.map(|value| value.to_f32().to_le_bytes()).concat();
        assert_eq!(tensor(&large, "w"), ("F32".to_string(), widened));
        assert_eq!(tensor(&large, "i"), tensor(&small, "i"));
    }

    #[test]
    fn bytes_that_were_moved_apart_come_together_again() {
        assert_eq!(apart(&[1, 2, 3, 4, 5]), [1, 3, 5, 2, 4]);
        for length in [0, 1, 2, 1001] {
            let file: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
            assert_eq!(together(&apart(&file)), file);
        }
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        assert!(to_f16(&[1, 2, 3]).is_err());
        assert!(to_f16(&1_000_u64.to_le_bytes()).is_err());
        let header = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let truncated = [(header.len() as u64).to_le_bytes().as_slice(), header, &[0; 4]].concat();
        assert!(to_f16(&truncated).is_err_and(|error| error.to_string().contains("outside")));
    }
}
