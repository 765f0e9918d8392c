//! Special registers.

/// A special register that is modelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    ThreadIndex(u8),
    BlockShape(u8),
    BlockIndex(u8),
    GridShape(u8),
    Lane,
    Warp,
    WarpCount,
    Multiprocessor,
    MultiprocessorCount,
    GridId,
    ClusterShape(u8),
    ClusterIndex(u8),
    /// Place of the block in its cluster.
    ClusterPlace(u8),
    ClusterGridShape(u8),
    ClusterRank,
    ClusterSize,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicSharedBytes,
    TotalSharedBytes,
    /// Counts executed instructions: deterministic, monotonic, and no measure of time.
    Clock,
}

/// The special register of that name.
pub(crate) fn lookup(name: &str) -> Option<Special> {
    use Special::*;
    Some(match name {
        "%tid.x" => ThreadIndex(0),
        "%tid.y" => ThreadIndex(1),
        "%tid.z" => ThreadIndex(2),
        "%ntid.x" => BlockShape(0),
        "%ntid.y" => BlockShape(1),
        "%ntid.z" => BlockShape(2),
        "%ctaid.x" => BlockIndex(0),
        "%ctaid.y" => BlockIndex(1),
        "%ctaid.z" => BlockIndex(2),
        "%nctaid.x" => GridShape(0),
        "%nctaid.y" => GridShape(1),
        "%nctaid.z" => GridShape(2),
        "%cluster_nctaid.x" => ClusterShape(0),
        "%cluster_nctaid.y" => ClusterShape(1),
        "%cluster_nctaid.z" => ClusterShape(2),
        "%clusterid.x" => ClusterIndex(0),
        "%clusterid.y" => ClusterIndex(1),
        "%clusterid.z" => ClusterIndex(2),
        "%cluster_ctaid.x" => ClusterPlace(0),
        "%cluster_ctaid.y" => ClusterPlace(1),
        "%cluster_ctaid.z" => ClusterPlace(2),
        "%nclusterid.x" => ClusterGridShape(0),
        "%nclusterid.y" => ClusterGridShape(1),
        "%nclusterid.z" => ClusterGridShape(2),
        "%cluster_ctarank" => ClusterRank,
        "%cluster_nctarank" => ClusterSize,
        "%laneid" => Lane,
        "%warpid" => Warp,
        "%nwarpid" => WarpCount,
        "%smid" => Multiprocessor,
        "%nsmid" => MultiprocessorCount,
        "%gridid" => GridId,
        "%lanemask_eq" => LaneMaskEq,
        "%lanemask_lt" => LaneMaskLt,
        "%lanemask_le" => LaneMaskLe,
        "%lanemask_gt" => LaneMaskGt,
        "%lanemask_ge" => LaneMaskGe,
        "%dynamic_smem_size" => DynamicSharedBytes,
        "%total_smem_size" => TotalSharedBytes,
        "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi" => Clock,
        _ => return None,
    })
}

/// What the values depend on.
pub(crate) struct Place {
    pub warp: u32,
    pub block_index: [u32; 3],
    pub block_linear: u64,
    pub block_shape: [u32; 3],
    pub grid_shape: [u32; 3],
    pub cluster_shape: [u32; 3],
    pub dynamic_shared_bytes: u32,
    pub total_shared_bytes: u32,
}

/// Number of multiprocessors that `%nsmid` reports.
const MULTIPROCESSORS: u32 = 108;

impl Special {
    /// The value for one lane at the start of a block.
    pub fn value(self, place: &Place, lane: u32) -> u32 {
        let thread = place.warp * 32 + lane;
        let (cluster, block) = (place.cluster_shape, place.block_index);
        match self {
            Special::ThreadIndex(0) => thread % place.block_shape[0],
            Special::ThreadIndex(1) => thread / place.block_shape[0] % place.block_shape[1],
            Special::ThreadIndex(_) => thread / place.block_shape[0] / place.block_shape[1],
            Special::BlockShape(axis) => place.block_shape[usize::from(axis)],
            Special::BlockIndex(axis) => place.block_index[usize::from(axis)],
            Special::GridShape(axis) => place.grid_shape[usize::from(axis)],
            Special::ClusterShape(axis) => cluster[usize::from(axis)],
            Special::ClusterIndex(axis) => block[usize::from(axis)] / cluster[usize::from(axis)],
            Special::ClusterPlace(axis) => block[usize::from(axis)] % cluster[usize::from(axis)],
            Special::ClusterGridShape(axis) => place.grid_shape[usize::from(axis)] / cluster[usize::from(axis)],
            Special::ClusterRank => {
                let [x, y, z]: [u32; 3] = std::array::from_fn(|axis| block[axis] % cluster[axis]);
                x + cluster[0] * (y + cluster[1] * z)
            }
            Special::ClusterSize => cluster.iter().product(),
            Special::Lane => lane,
            Special::Warp => place.warp,
            Special::WarpCount => 64,
            Special::Multiprocessor => (place.block_linear % u64::from(MULTIPROCESSORS)) as u32,
            Special::MultiprocessorCount => MULTIPROCESSORS,
            Special::GridId | Special::Clock => 0,
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLt => (1 << lane) - 1,
            Special::LaneMaskLe => ((1u64 << (lane + 1)) - 1) as u32,
            Special::LaneMaskGt => !(((1u64 << (lane + 1)) - 1) as u32),
            Special::LaneMaskGe => !((1 << lane) - 1),
            Special::DynamicSharedBytes => place.dynamic_shared_bytes,
            Special::TotalSharedBytes => place.total_shared_bytes,
        }
    }
}
