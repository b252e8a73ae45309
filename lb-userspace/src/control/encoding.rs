//! Texts that are sent compressed to clients that say they take that (RFC 9110, 12.5.3).

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use hyper::header::{ACCEPT_ENCODING, HeaderMap};
use tokio::task;

/// From this length on, in bytes, a text is compressed: below, head and trailer outweigh it.
const WORTH: usize = 1024;

/// Whether the client takes gzip: it names it, and not with the weight 0.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.trim().strip_prefix("q=").map(|weight| weight.trim().parse::<f32>());
        name.trim().eq_ignore_ascii_case("gzip")
            && weight.is_none_or(|weight| weight.is_ok_and(|weight| weight > 0.0))
    })
}

/// The text, compressed; `None` = it is too short for that, or it could not be done.
pub(super) async fn gzip(text: &Bytes) -> Option<Bytes> {
    if text.len() < WORTH {
        return None;
    }
    let text = text.clone();
    // A thread of its own: the metrics of 10,000 backends take longer than other connections should wait.
    task::spawn_blocking(move || compress(&text)).await.ok()?.ok()
}

fn compress(text: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text)?;
    Ok(encoder.finish()?.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn only_clients_that_take_it_get_it() {
        for (value, takes) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip; q=1", true),
            ("gzip;q=0", false),
            ("gzip;q=0.000", false),
            ("gzip;q=x", false),
            ("gzipped, br", false),
            ("*", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]);
            assert_eq!(takes_gzip(&headers), takes, "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_text_comes_back_as_it_was_and_is_shorter() {
        let text = Bytes::from("lb_backend_packets_total{service=\"web\"} 7\n".repeat(1000));
        let short = gzip(&text).await.unwrap();
        assert!(short.len() < text.len() / 10, "{}", short.len());
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&short[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, text);
        assert_eq!(gzip(&Bytes::from_static(b"ok\n")).await, None);
    }
}
