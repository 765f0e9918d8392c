//! kernels/lib/place.cuh.

use super::{BOUNDS, D64, D96, GLOBAL_RACE, KEY_VALUE};
use crate::mutant::Mutant;

const FILE: &str = "lib/place.cuh";

pub fn mutants() -> Vec<Mutant> {
    [rows(), packed(), keys()].concat()
}

fn rows() -> Vec<Mutant> {
    vec![
        Mutant::new("queries-unbounded", "the last block takes BLOCK_Q rows, however few there are", D64)
            .edit(FILE, "min(BLOCK_Q, len_q * static_cast<int>(shape.packed_heads) - first_row)", "BLOCK_Q")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("early-blocks-first", "query blocks start in ascending order", D64)
            .edit(FILE, "first_row = (num_blocks - 1 - block) * BLOCK_Q;", "first_row = block * BLOCK_Q;")
            .equivalent(
                "blocks are independent: their order decides how long a grid's tail is, and nothing that one computes",
            ),
        Mutant::new("key-head-wrong", "query heads that share a key head take turns among the key heads", D64).edit(
            FILE,
            "first_head / shape.heads_per_kv",
            "first_head % (shape.heads_q / shape.heads_per_kv)",
        ),
        Mutant::new("key-head-is-query-head", "the key head is taken from the query head's number", D64).edit(
            FILE,
            "first_head / shape.heads_per_kv",
            "first_head",
        ),
        Mutant::new("batch-stride-is-head-stride", "sequences are a head apart", D64)
            .edit(FILE, "batch_idx * strides.batch +", "batch_idx * strides.head +")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("rows-of-head-0", "all heads read and write head 0", D96)
            .edit(FILE, "strides, tensor_batch, head(shape, row), first_query", "strides, tensor_batch, 0, first_query")
            .hazard(&[GLOBAL_RACE])
            .fast(),
        Mutant::new("lse-batch-lost", "all sequences write the first one's log-sum-exps", D64)
            .edit(FILE, "tensor_batch * shape.lse_batch + head(shape, row)", "head(shape, row)")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new(
            "head-of-packed-rows-lost",
            "all rows of a tile that several heads share belong to the first one",
            D64,
        )
        .edit(FILE, "first_head + (first_row + row) % shape.packed_heads;", "first_head;"),
        Mutant::new(
            "query-of-packed-rows",
            "a row of a tile that several heads share takes its head's number for its query's",
            D64,
        )
        .edit(
            FILE,
            "(first_row + row) / static_cast<int>(shape.packed_heads)",
            "(first_row + row) % static_cast<int>(shape.packed_heads)",
        )
        .hazard(&[GLOBAL_RACE, BOUNDS]),
        Mutant::new(
            "query-of-the-first-block",
            "the second block of a tile that several heads share begins with query 0 again",
            D64,
        )
        .edit(
            FILE,
            "(first_row + row) / static_cast<int>(shape.packed_heads)",
            "row / static_cast<int>(shape.packed_heads)",
        )
        .hazard(&[GLOBAL_RACE]),
        Mutant::new("section-start-lost", "every section of the grid works on the first section's heads", D64)
            .edit_nth(1, FILE, "block_idx / section_blocks * shape.section;", "block_idx / section_blocks * 0;")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("last-section-full", "the last section of the grid is taken for as large as the others", D64)
            .edit_nth(1, FILE, "min(shape.section, heads * shape.batch - section_start)", "shape.section")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("length-of-sequence-0", "every sequence has the first one's length", D96).edit_nth(
            1,
            FILE,
            "(params.key_lengths), sequence, len_kv)",
            "(params.key_lengths), 0, len_kv)",
        ),
        Mutant::new("length-always-read", "key lengths are read where there are none", D64)
            .edit_nth(1, FILE, "key_length = params.key_lengths == 0", "key_length = false")
            .hazard(&[BOUNDS]),
    ]
}

fn packed() -> Vec<Mutant> {
    vec![
Mutant::new("scan-of-16-sequences", "the blocks of 16 sequences are added up, not those of 32", D64)
.edit(FILE, "distance < 32; distance *= 2", "distance < 16; distance *= 2"),
Mutant::new("scan-with-its-own", "the lanes that have no lane before them add themselves", D64)
.edit(FILE, "if (lane >= distance) up_to += other;", "up_to += other;"),
Mutant::new("blocks-before-lost", "the blocks of the first 32 sequences are forgotten", D64)
.edit(FILE, "before += __shfl_sync(0xffffffff, up_to, 31);", ""),
Mutant::new("owner-one-late", "the last block of a sequence is taken for the next one's", D64)
.edit(FILE, "block < before + up_to);", "block + 1 < before + up_to);"),
Mutant::new("block-of-the-first-sequence", "a block counts from the first sequence's blocks on", D64)
.edit(FILE, "block - before - __shfl_sync(0xffffffff, up_to - num_blocks, owner);", "block - before;").hazard(&["out of bounds"]),
Mutant::new("starts-of-32-sequences", "only the first 32 lengths are added up to where a sequence begins", D64)
.edit(FILE, "idx < sequence.idx; idx += 32)", "idx < sequence.idx; idx += 4096)")
.hazard(&[GLOBAL_RACE]),
Mutant::new("starts-of-one-lane", "where a sequence begins is added up by each lane for itself", D64)
.edit(FILE, "min(warp_sum(first_query), shape.len_q)", "min(first_query, shape.len_q)").hazard(&["global memory race"]),
Mutant::new("starts-of-16-lanes", "where a sequence begins is added up over 16 lanes", D64)
.edit(FILE, "int distance = 16; distance > 0", "int distance = 8; distance > 0").hazard(&["global memory race"]),
Mutant::new("starts-of-keys-from-queries", "the keys of a sequence begin where its queries do", D64)
.edit(FILE, "first_key += checked_length(len_kv,", "first_key += checked_length(len_q,"),
Mutant::new("keys-of-sequence-0", "all sequences walk the first one's keys", D64)
.edit(FILE, "first_head / shape.heads_per_kv, first_key);", "first_head / shape.heads_per_kv, 0);"),
Mutant::new("rows-of-one-head", "blocks are counted for one head, where several share them", D64)
.edit(FILE, "block_idx / heads, shape.packed_heads);", "block_idx / heads, 1);"),
Mutant::new("order-ignored", "packed sequences are taken as they come", D64)
.edit(FILE, "exists && order != nullptr ?", "false ?")
.equivalent("every block of every sequence is still worked on once: the order decides which block of the grid does it, and nothing that it computes"),
Mutant::new("order-unchecked", "an order that nobody checked may name a sequence that does not exist", D64)
.edit(FILE, "min(static_cast<uint32_t>(order[rank]), shape.batch - 1)", "static_cast<uint32_t>(order[rank])")
.equivalent("the library makes every order itself, out of the numbers below the batch"),
]
}

fn keys() -> Vec<Mutant> {
    vec![
        Mutant::new("keys-unbounded", "the last block takes BLOCK_KV keys, however few there are", KEY_VALUE)
            .edit(FILE, "min(BLOCK_KV, len_kv - first_row)", "BLOCK_KV")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("key-blocks-of-queries", "the blocks of packed sequences are counted by their queries", KEY_VALUE)
            .edit(FILE, "find_sequence<BLOCK_KV, true>", "find_sequence<BLOCK_KV, false>"),
        Mutant::new("key-rows-of-sequence-0", "the keys of all packed sequences are the first one's", KEY_VALUE)
            .edit(FILE, "kv_head, first_key + first_row + row);", "kv_head, first_row + row);")
            .hazard(&["global memory race"]),
        Mutant::new("queries-of-sequence-0", "the queries of all packed sequences are the first one's", KEY_VALUE)
            .edit(FILE, "tensor_batch, head, first_query + query);", "tensor_batch, head, query);"),
        Mutant::new("numbers-of-head-0", "the log-sum-exps of all heads are the first one's", KEY_VALUE).edit(
            FILE,
            "tensor_batch * shape.lse_batch + head * shape.lse_head + first_query + query;",
            "tensor_batch * shape.lse_batch + first_query + query;",
        ),
        Mutant::new("keys-of-head-0", "all key heads are the first one", KEY_VALUE)
            .edit(FILE, "kv_head = pair % heads;", "kv_head = 0;")
            .hazard(&[GLOBAL_RACE]),
    ]
}
