//! The host's view of global memory.

use ptx_emu::{Error, Memory};

#[test]
fn allocations_are_aligned_apart_and_checked() {
    let memory = Memory::new();
    let first = memory.allocate(10, 4096).unwrap();
    let second = memory.allocate(1, 1).unwrap();
    assert_eq!(first % 4096, 0);
    assert!(second - first >= 1 << 20, "there is a gap behind each allocation");
    memory.write(first + 3, &[1, 2, 3, 4, 5, 6, 7]).unwrap();
    assert_eq!(memory.write(first + 4, &[0; 7]), Err(Error::InvalidAddress { address: first + 4, bytes: 7 }));
    let mut bytes = [0; 10];
    memory.read(first, &mut bytes).unwrap();
    assert_eq!(bytes, [255, 255, 255, 1, 2, 3, 4, 5, 6, 7], "undefined bytes read back as NaN");
    assert!(memory.is_written(first + 3, 7).unwrap());
    assert!(!memory.is_written(first + 2, 2).unwrap());
    assert!(memory.read(0, &mut bytes).is_err());
    memory.free(first).unwrap();
    assert!(memory.read(first, &mut bytes).is_err());
    assert!(memory.free(first).is_err());
}

#[test]
fn impossible_requests_are_errors() {
    let memory = Memory::with_limit(1000);
    assert!(matches!(memory.allocate(1001, 256), Err(Error::Allocation { .. })));
    assert!(matches!(memory.allocate(u64::MAX, 256), Err(Error::Allocation { .. })));
    assert!(matches!(memory.allocate(1, 3), Err(Error::Allocation { .. })));
    let whole = memory.allocate(1000, 1).unwrap();
    assert!(memory.allocate(1, 1).is_err());
    memory.free(whole).unwrap();
    assert!(memory.allocate(1000, 1).is_ok());
    assert!(memory.read(u64::MAX, &mut [0; 16]).is_err());
    assert!(memory.poison(u64::MAX - 3, u64::MAX).is_err());
}
