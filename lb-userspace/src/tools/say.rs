//! What `lbd` prints as a command. The reader may be gone: `lbd decap stats | head` is not a failure, on either stream.

use std::io::{self, ErrorKind, Write};

/// Prints on standard output.
///
/// # Errors
/// The text cannot be written, because of a full disk for example; a reader that is gone is not an error.
pub fn say(text: &str) -> io::Result<()> {
    print(&mut io::stdout().lock(), text)
}

/// Prints on standard error, as far as that works: there is no other place to report a failure.
pub fn complain(text: &str) {
    let _ = print(&mut io::stderr().lock(), text);
}

fn print(stream: &mut impl Write, text: &str) -> io::Result<()> {
    match stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_not_a_failure_but_a_full_disk_is() {
        print(&mut Broken(ErrorKind::BrokenPipe), "x").unwrap();
        assert_eq!(
            print(&mut Broken(ErrorKind::StorageFull), "x").unwrap_err().kind(),
            ErrorKind::StorageFull
        );
    }
}
