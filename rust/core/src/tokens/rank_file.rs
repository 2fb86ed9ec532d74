//! The published form of a vocabulary: one line a token, `base64(bytes) rank`. The build script
//! checks its digest, and `Encoding::rank_file` writes it again from the tables.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the line of one token.
pub fn push_line(out: &mut Vec<u8>, token: &[u8], rank: u32) {
    for group in token.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| {
            bits << 8 | usize::from(*group.get(i).unwrap_or(&0))
        });
        for i in 0..4 {
            let digit = ALPHABET[bits >> (18 - 6 * i) & 63];
            out.push(if i <= group.len() { digit } else { b'=' });
        }
    }
    out.push(b' ');
    out.extend_from_slice(rank.to_string().as_bytes());
    out.push(b'\n');
}
