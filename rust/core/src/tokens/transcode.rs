//! Code points to UTF-8, with surrogates as tiktoken reads them.

const REPLACEMENT: u32 = 0xfffd;
/// Code points that are looked at together.
const BLOCK: usize = 16;
/// Code points that are taken together where all are ASCII.
const RUN: usize = 2 * BLOCK;
/// A character is written as four bytes, of which those that it has count.
const WRITTEN: usize = 4;
/// What a block may write, whatever of it counts.
const BLOCK_WRITTEN: usize = BLOCK * WRITTEN;
const RUN_WRITTEN: usize = RUN * WRITTEN;

/// A code point as a `str` stores it.
pub trait Point: Copy + Into<u32> {
    /// The longest UTF-8 form.
    const MAX_BYTES: usize;
}

impl Point for u8 {
    const MAX_BYTES: usize = 2;
}

impl Point for u16 {
    const MAX_BYTES: usize = 3;
}

impl Point for u32 {
    const MAX_BYTES: usize = 4;
}

/// Whether this is the first half of a surrogate pair.
pub fn is_high(point: u32) -> bool {
    (0xd800..0xdc00).contains(&point)
}

fn is_surrogate(point: u32) -> bool {
    point & 0xffff_f800 == 0xd800
}

/// The scalar value at `at`, and where the next one begins. A pair of surrogates is the character
/// it stands for, and a lone one becomes U+FFFD.
#[inline]
pub fn scalar<T: Point>(points: &[T], at: usize) -> (u32, usize) {
    let point = points[at].into();
    if !is_surrogate(point) {
        return (point, at + 1);
    }
    match points.get(at + 1).map(|&next| next.into()) {
        Some(low @ 0xdc00..0xe000) if is_high(point) => {
            (0x1_0000 + ((point - 0xd800) << 10) + (low - 0xdc00), at + 2)
        }
        _ => (REPLACEMENT, at + 1),
    }
}

/// Bytes of the UTF-8 form of a scalar value.
#[inline]
pub fn width(point: u32) -> u32 {
    1 + u32::from(point >= 0x80) + u32::from(point >= 0x800) + u32::from(point >= 0x1_0000)
}

/// The UTF-8 form of a scalar value that a `T` can hold, first byte lowest.
#[inline]
fn encoded<T: Point>(point: u32) -> u32 {
    let tail = |shift: u32| point >> shift & 0x3f;
    let two = 0x80c0 | point >> 6 | tail(0) << 8;
    let three = 0x80_80e0 | point >> 12 | tail(6) << 8 | tail(0) << 16;
    let four = 0x8080_80f0 | point >> 18 | tail(12) << 8 | tail(6) << 16 | tail(0) << 24;
    // Selects, not branches: spaces among Hangul come as they please.
    let short = if point < 0x80 { point } else { two };
    let long = if T::MAX_BYTES < 4 || point < 0x1_0000 {
        three
    } else {
        four
    };
    if point < 0x800 { short } else { long }
}

/// Writes `points` as UTF-8 to the start of `buffer`, which grows to hold the longest form;
/// returns how much was written.
pub fn transcode<T: Point>(points: &[T], buffer: &mut Vec<u8>) -> usize {
    let most = T::MAX_BYTES * points.len() + RUN_WRITTEN;
    if buffer.len() < most {
        buffer.resize(most, 0);
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512vbmi2")
        && std::arch::is_x86_feature_detected!("avx512bw")
    {
        // SAFETY: these are the features that it asks for.
        return unsafe { avx512(points, buffer) };
    }
    blocks(points, buffer, scalar_block::<T>)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bw,avx512vbmi2,popcnt")]
fn avx512<T: Point>(points: &[T], buffer: &mut [u8]) -> usize {
    blocks(points, buffer, |block, out| {
        super::compress::block(block, out)
    })
}

/// `block` writes a block without surrogates and returns how much of what it wrote counts.
#[inline(always)]
fn blocks<T: Point>(
    points: &[T],
    buffer: &mut [u8],
    block: impl Fn(&[u32; BLOCK], &mut [u8; BLOCK_WRITTEN]) -> usize,
) -> usize {
    let mut out = 0;
    let mut at = 0;
    while let Some(run) = points[at..].first_chunk::<RUN>() {
        let run = run.map(Into::<u32>::into);
        let Some(room) = buffer[out..].first_chunk_mut::<RUN_WRITTEN>() else {
            break;
        };
        if run.iter().fold(0, |all, &point| all | point) < 0x80 {
            #[allow(clippy::cast_possible_truncation)] // ASCII
            let bytes = run.map(|point| point as u8);
            room[..RUN].copy_from_slice(&bytes);
            out += RUN;
            at += RUN;
        } else if run.iter().any(|&point| is_surrogate(point)) {
            let end = at + RUN;
            while at < end {
                (out, at) = one(points, at, buffer, out);
            }
        } else {
            // Without asking each block whether it is ASCII: among words the answer is not guessed.
            let mut written = 0;
            for given in run.as_chunks().0 {
                if let Some(room) = room[written..].first_chunk_mut() {
                    written += block(given, room);
                }
            }
            out += written;
            at += RUN;
        }
    }
    while at < points.len() {
        (out, at) = one(points, at, buffer, out);
    }
    out
}

#[inline(always)]
fn scalar_block<T: Point>(block: &[u32; BLOCK], room: &mut [u8; BLOCK_WRITTEN]) -> usize {
    let mut out = 0;
    for &point in block {
        room[out..out + WRITTEN].copy_from_slice(&encoded::<T>(point).to_le_bytes());
        out += width(point) as usize;
    }
    out
}

fn one<T: Point>(points: &[T], at: usize, buffer: &mut [u8], out: usize) -> (usize, usize) {
    let (point, next) = scalar(points, at);
    buffer[out..out + WRITTEN].copy_from_slice(&encoded::<u32>(point).to_le_bytes());
    (out + width(point) as usize, next)
}

/// How many code points the first `bytes` bytes of the UTF-8 form came from.
pub fn points_in<T: Point>(points: &[T], mut bytes: usize) -> usize {
    let mut at = 0;
    while let Some(run) = points[at..].first_chunk::<RUN>() {
        let run = run.map(Into::<u32>::into);
        let length = run.iter().map(|&point| width(point)).sum::<u32>() as usize;
        if length > bytes || run.iter().any(|&point| is_surrogate(point)) {
            break;
        }
        bytes -= length;
        at += RUN;
    }
    while bytes > 0 && at < points.len() {
        let (point, next) = scalar(points, at);
        at = next;
        bytes = bytes.saturating_sub(width(point) as usize);
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What tiktoken makes of it: UTF-16 with lone surrogates replaced.
    fn expected(points: &[u32]) -> String {
        let mut units = Vec::new();
        for &point in points {
            match char::from_u32(point) {
                Some(character) => units.extend_from_slice(character.encode_utf16(&mut [0; 2])),
                None => units.push(u16::try_from(point).unwrap()),
            }
        }
        String::from_utf16_lossy(&units)
    }

    fn check<T: Point>(points: &[T]) -> Result<(), TestCaseError> {
        let wide: Vec<u32> = points.iter().map(|&point| point.into()).collect();
        let expected = expected(&wide);
        let mut buffer = Vec::new();
        let length = transcode(points, &mut buffer);
        prop_assert_eq!(&buffer[..length], expected.as_bytes());
        let length = blocks(points, &mut buffer, scalar_block::<T>);
        prop_assert_eq!(&buffer[..length], expected.as_bytes());
        let (mut at, mut bytes) = (0, 0);
        while at < points.len() {
            prop_assert_eq!(points_in(points, bytes), at);
            let (point, next) = scalar(points, at);
            (at, bytes) = (next, bytes + width(point) as usize);
        }
        prop_assert_eq!(points_in(points, length), points.len());
        Ok(())
    }

    proptest! {
        #[test]
        fn utf8_of_every_width(
            narrow in prop::collection::vec(any::<u8>(), 0..80),
            middle in prop::collection::vec(
                prop_oneof![0u16..0x80, any::<u16>(), 0xac00u16..0xd7a4, 0xd800u16..0xe000], 0..80,
            ),
            wide in prop::collection::vec(
                prop_oneof![0u32..0x80, 0u32..0x11_0000, 0xd800u32..0xe000], 0..80,
            ),
        ) {
            check(&narrow)?;
            check(&middle)?;
            check(&wide)?;
            // One character at every place of blocks of letters.
            for at in 0..middle.len() {
                let mut letters = vec![u16::from(b'a'); middle.len()];
                letters[at] = middle[at];
                check(&letters)?;
            }
        }
    }
}
