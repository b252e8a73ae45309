//! How reasons quote what a server sent or an operator wrote: on one line, without control characters, cut to a length.

/// Characters of a server's bytes that are quoted.
const QUOTED: usize = 80;
/// Characters of an operator's text that are repeated.
const REPEATED: usize = 40;

/// `bytes` in quotation marks, with everything but visible characters escaped.
pub(super) fn quoted(bytes: &[u8]) -> String {
    format!("{:?}", cut(&String::from_utf8_lossy(bytes), QUOTED))
}

/// What the operator wrote, so short that a reason stays a line.
pub(super) fn shortened(text: &str) -> String {
    cut(text, REPEATED)
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.push('…');
    short
}

/// `ServerSentNoKey` as `server sent no key`: names of a library's errors, for those that have no words of their own.
pub(super) fn spelled(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 8);
    let mut before = ' ';
    for character in name.chars() {
        if character.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit()) {
            words.push(' ');
        }
        words.push(character.to_ascii_lowercase());
        before = character;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_server_stay_on_a_line_and_move_no_cursor() {
        assert_eq!(quoted(b"a\x1b[2J\r\n\x00b"), "\"a\\u{1b}[2J\\r\\n\\0b\"");
        assert_eq!(quoted("\u{202e}gpj".as_bytes()), "\"\\u{202e}gpj\"");
        assert_eq!(quoted(&[0xff]), "\"\u{fffd}\"");
        assert_eq!(quoted(&[b'x'; 81]), format!("\"{}…\"", "x".repeat(79)));
    }

    #[test]
    fn long_texts_of_an_operator_are_shortened() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"ä".repeat(41)).chars().count(), 40);
    }

    #[test]
    fn names_of_errors_become_words() {
        assert_eq!(spelled("NoKxGroupsInCommon"), "no kx groups in common");
        assert_eq!(spelled("ServerDoesNotSupportTls12Or13"), "server does not support tls12 or13");
    }
}
