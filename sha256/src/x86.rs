//! Several messages at once with the SHA instructions of x86 processors.

use std::arch::x86_64::*;

use super::{BLOCK, Blocks, Compress, LANES, State};

/// The round constants.
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// How to hash here, if this processor can.
pub(super) fn compress() -> Option<Compress> {
    let can = is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1");
    can.then_some(checked as Compress)
}

/// For a processor that was found to have what this takes.
#[allow(unsafe_code)]
fn checked(states: &mut [State; LANES], blocks: [Blocks<'_>; LANES]) -> usize {
    // SAFETY: only `compress` gives this function away, after it has seen that the processor has these features.
    unsafe { rounds(states, blocks) }
}

/// The instructions keep a state in two registers: words F, E, B, A and H, G, D, C, from low to high.
#[derive(Clone, Copy)]
struct Halves {
    abef: __m128i,
    cdgh: __m128i,
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn rounds<const N: usize>(states: &mut [State; N], blocks: [Blocks<'_>; N]) -> usize {
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    let mut halves = states
        .map(|[a, b, c, d, e, f, g, h]| Halves { abef: words([f, e, b, a]), cdgh: words([h, g, d, c]) });
    for index in 0..count {
        let before = halves;
        let mut schedule = blocks.map(|blocks| message(&blocks[index]));
        // Four rounds of each message, in turns.
        for (round, k) in K.as_chunks().0.iter().enumerate() {
            for (Halves { abef, cdgh }, schedule) in halves.iter_mut().zip(&mut schedule) {
                let [now, next, later, last] = std::array::from_fn(|i| schedule[(round + i) % 4]);
                let added = _mm_add_epi32(now, words(*k));
                *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, added);
                *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, _mm_shuffle_epi32::<0b1110>(added));
                if round < 12 {
                    let sum =
                        _mm_add_epi32(_mm_sha256msg1_epu32(now, next), _mm_alignr_epi8::<4>(last, later));
                    schedule[round % 4] = _mm_sha256msg2_epu32(sum, last);
                }
            }
        }
        for (after, before) in halves.iter_mut().zip(before) {
            after.abef = _mm_add_epi32(after.abef, before.abef);
            after.cdgh = _mm_add_epi32(after.cdgh, before.cdgh);
        }
    }
    for (state, Halves { abef, cdgh }) in states.iter_mut().zip(halves) {
        let ([f, e, b, a], [h, g, d, c]) = (split(abef), split(cdgh));
        *state = [a, b, c, d, e, f, g, h];
    }
    count
}

/// A block's sixteen words, which are big-endian.
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn message(block: &[u8; BLOCK]) -> [__m128i; 4] {
    let (words, _) = block.as_chunks::<8>();
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let two = |i: usize| i64::from_le_bytes(words[i]);
    std::array::from_fn(|i| _mm_shuffle_epi8(_mm_set_epi64x(two(2 * i + 1), two(2 * i)), swap))
}

/// Four words, from low to high.
#[target_feature(enable = "sse2")]
fn words([a, b, c, d]: [u32; 4]) -> __m128i {
    _mm_set_epi32(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed())
}

#[target_feature(enable = "sse4.1")]
fn split(register: __m128i) -> [u32; 4] {
    [
        _mm_extract_epi32::<0>(register).cast_unsigned(),
        _mm_extract_epi32::<1>(register).cast_unsigned(),
        _mm_extract_epi32::<2>(register).cast_unsigned(),
        _mm_extract_epi32::<3>(register).cast_unsigned(),
    ]
}
