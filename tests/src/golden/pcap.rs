//! Capture files in the classic format of libpcap (the pcap draft of the IETF, `draft-ietf-opsawg-pcap`): reads all byte
//! orders and both resolutions, writes one of them. Ethernet only.

use anyhow::{Result, bail, ensure};

/// Little-endian with microseconds: the form that is written.
const MAGIC: u32 = 0xa1b2_c3d4;
/// The same with nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// The beginning of a file in the newer format.
const PCAPNG: u32 = 0x0a0d_0d0a;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;
/// The longest frame, in bytes.
const LONGEST: u32 = 65_535;

/// A frame, and the second in which it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub second: u32,
    pub frame: Vec<u8>,
}

/// The bytes of a capture file.
pub fn write(frames: &[Seen]) -> Vec<u8> {
    let mut out = Vec::new();
    // Version 2.4, no time zone, no accuracy stated.
    for word in [MAGIC, 2 | 4 << 16, 0, 0, LONGEST, ETHERNET] {
        out.extend(word.to_le_bytes());
    }
    for Seen { second, frame } in frames {
        let length = frame.len() as u32;
        for word in [*second, 0, length, length] {
            out.extend(word.to_le_bytes());
        }
        out.extend(frame);
    }
    out
}

/// The frames of a capture file.
///
/// # Errors
/// The bytes are not a whole capture of Ethernet frames; the message says what they are, and what to do about it.
pub fn read(bytes: &[u8]) -> Result<Vec<Seen>> {
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let Some(magic) = word(0) else { bail!("{} bytes are not a capture file", bytes.len()) };
    let number: fn([u8; 4]) -> u32 = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
        (PCAPNG, _) => bail!("a pcapng file; `editcap -F pcap` makes a pcap file of it"),
        (MAGIC | MAGIC_NANOSECONDS, _) => u32::from_le_bytes,
        (_, MAGIC | MAGIC_NANOSECONDS) => u32::from_be_bytes,
        _ => bail!("no pcap file: it begins with {magic:02x?}"),
    };
    let Some(link) = word(20).map(number) else { bail!("the file's header is cut short") };
    // The upper bits have the length of the frame check sequence.
    ensure!(link & 0xffff == ETHERNET, "link type {}, and only Ethernet (1) is known", link & 0xffff);
    let mut frames = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let place = frames.len() + 1;
        let (Some(second), Some(kept), Some(long)) =
            (word(at).map(number), word(at + 8).map(number), word(at + 12).map(number))
        else {
            bail!("frame {place}: its header is cut short")
        };
        ensure!(
            kept == long,
            "frame {place}: only {kept} of its {long} bytes were kept; capture with `-s 0`"
        );
        let frame = bytes.get(at + 16..).and_then(|rest| rest.get(..kept as usize));
        let Some(frame) = frame else { bail!("frame {place}: the file ends inside it") };
        frames.push(Seen { second, frame: frame.to_vec() });
        at += 16 + frame.len();
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(all in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..5)) {
            let frames: Vec<Seen> = all.into_iter().map(|(second, frame)| Seen { second, frame }).collect();
            prop_assert_eq!(read(&write(&frames)).unwrap(), frames);
        }

        #[test]
        fn any_bytes_are_read_or_refused(head in 0..5_usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let magic = [MAGIC.to_le_bytes(), MAGIC.to_be_bytes(), MAGIC_NANOSECONDS.to_be_bytes(), [0; 4], [1; 4]];
            read(&[&magic[head][..], &bytes].concat()).ok();
        }
    }

    #[test]
    fn a_file_of_the_other_byte_order_is_read() {
        let mut file = Vec::new();
        for word in [MAGIC_NANOSECONDS, 2 << 16 | 4, 0, 0, LONGEST, ETHERNET, 7, 0, 2, 2] {
            file.extend(word.to_be_bytes());
        }
        file.extend([1, 2]);
        assert_eq!(read(&file).unwrap(), [Seen { second: 7, frame: vec![1, 2] }]);
    }

    #[test]
    fn what_is_no_capture_is_refused_with_a_way_out() {
        let good = write(&[Seen { second: 0, frame: vec![0; 20] }]);
        let mut other_link = good.clone();
        other_link[20] = 101;
        let mut snapped = good.clone();
        snapped[32] = 10;
        for (bytes, says) in [
            (&b"ab"[..], "2 bytes are not a capture file"),
            (b"#!/bin/sh", "no pcap file: it begins with"),
            (&PCAPNG.to_le_bytes(), "editcap -F pcap"),
            (&good[..12], "the file's header is cut short"),
            (&good[..30], "frame 1: its header is cut short"),
            (&good[..50], "frame 1: the file ends inside it"),
            (&other_link, "link type 101"),
            (&snapped, "only 10 of its 20 bytes"),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
