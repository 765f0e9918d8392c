//! Tensor maps as the driver encodes them for the GPU.

use std::ffi::c_void;

use cudarc::driver::sys;

use crate::cuda::driver_error;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor_map::{RANK_MAX, Swizzle, TensorMap, TensorMaps};

/// What no map was written to.
const NOTHING: sys::CUtensorMap = sys::CUtensorMap { opaque: [0; 16] };

/// The maps with the addresses that the kernel's parameters begin with, in their order, and then nothing. Encoding is work of
/// the processor alone; it allocates nothing.
pub(super) fn encode(maps: &[TensorMap], addresses: &[u64]) -> Result<[sys::CUtensorMap; TensorMaps::MAX]> {
    let mut encoded = [NOTHING; TensorMaps::MAX];
    for (map, to) in maps.iter().zip(&mut encoded) {
        // By the map of an absent tensor nothing is copied.
        if addresses[map.tensor] != 0 {
            encode_one(map, addresses[map.tensor], to)?;
        }
    }
    Ok(encoded)
}

fn encode_one(map: &TensorMap, address: u64, to: &mut sys::CUtensorMap) -> Result<()> {
    use sys::CUtensorMapDataType as Type;
    use sys::CUtensorMapSwizzle as Swizzled;
    map.check_address(address)?;
    let data_type = match map.dtype {
        DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::I32 => Type::CU_TENSOR_MAP_DATA_TYPE_INT32,
        DType::U8 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => Swizzled::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => Swizzled::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => Swizzled::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => Swizzled::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let element_strides = [1u32; RANK_MAX];
    // SAFETY: the driver reads `rank` sizes, box sizes and element strides and one stride less, which the arrays hold, and
    // writes one map, which is aligned as its type says. It does not read what the address points to.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            to,
            data_type,
            map.rank as u32,
            address as *mut c_void,
            map.dims.as_ptr(),
            map.strides_bytes.as_ptr(),
            map.box_dims.as_ptr(),
            element_strides.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            // A box's rows are 128 bytes: a whole line of the cache.
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .map_err(driver_error("encoding a tensor map"))
}
