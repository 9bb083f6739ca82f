//! SHA-256: of streams, in hexadecimal, and shortened.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

/// Hashes to the end of the stream. Returns the hasher's state and the byte count.
///
/// # Errors
/// Those of the stream.
pub fn of_all(mut reader: impl Read) -> io::Result<(Sha256, u64)> {
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut block = vec![0; BLOCK];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return Ok((hash, length)),
            Ok(read) => {
                hash.update(&block[..read]);
                length += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The finished hash in hexadecimal.
pub fn finish(hash: Sha256) -> String {
    hex(&hash.finalize())
}

/// The first eight bytes of the hash of `bytes`: enough where no adversary chooses them.
pub fn short(bytes: &[u8]) -> u64 {
    shorten(Sha256::new_with_prefix(bytes))
}

/// Like [`short`], from a hasher's state.
pub fn shorten(hash: Sha256) -> u64 {
    hash.finalize()[..8].iter().fold(0, |short, &byte| short << 8 | u64::from(byte))
}

/// Like [`short`], in hexadecimal.
pub fn short_hex(bytes: &[u8]) -> String {
    format!("{:016x}", short(bytes))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_hash_is_a_prefix_of_the_full_one() {
        let (hash, length) = of_all(&b"abc"[..]).unwrap();
        let long = finish(hash);
        assert_eq!((length, &long[..16]), (3, "ba7816bf8f01cfea"));
        assert_eq!(short_hex(b"abc"), long[..16]);
    }
}
