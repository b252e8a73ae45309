//! HTTPS probes against `openssl s_server`, which has keys of RSA and on P-521, weak signatures and old versions of TLS.
//! Skipped where there is no `openssl`.

use std::{
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{
    tls_servers::{NAME, https},
    *,
};

/// `openssl` in a directory of its own, where it makes keys, certificates and servers.
struct OpenSsl {
    directory: tempfile::TempDir,
}

/// An `openssl s_server`, ended with the test.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl OpenSsl {
    /// `None`, and said why, where there is no `openssl`.
    fn find(test: &str) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success()) {
            return Some(Self { directory: tempfile::tempdir().unwrap() });
        }
        // Past the test harness, which shows only what failing tests print.
        let _ = writeln!(std::io::stderr(), "SKIP health::probe::tests::openssl_servers::{test}: no openssl");
        None
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs `openssl` with the words of `line`.
    fn run(&self, line: &str) {
        let mut command = Command::new("openssl");
        let output = command.current_dir(self.path()).args(line.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A key, a CA with it and a certificate by it for a server with the same kind of key, all signed with `hash`.
    fn certificates(&self, key: &str, hash: &str) {
        self.certificates_by(key, key, hash);
    }

    fn certificates_by(&self, ca: &str, key: &str, hash: &str) {
        std::fs::write(self.path().join("san"), format!("subjectAltName=DNS:{NAME}\n")).unwrap();
        self.run(&format!("genpkey {ca} -out ca.key"));
        self.run(&format!("genpkey {key} -out key"));
        self.run(&format!("req -x509 -new -key ca.key -subj /CN=x -days 30 {hash} -out ca.pem"));
        self.run("req -new -key key -subj /CN=server -out csr");
        self.run(&format!(
            "x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile san -days 30 {hash} -out pem"
        ));
    }

    fn serve(&self, options: &str) -> Server {
        let mut child = Command::new("openssl")
            .current_dir(self.path())
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "pem", "-key", "key", "-www"])
            .args(options.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("ACCEPT ")?.parse().ok());
        // What else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address: address.expect("openssl s_server says where it listens") }
    }

    async fn ask(&self, options: &str) -> Result<(), Failure> {
        let server = self.serve(options);
        let probe = HttpProbe { body: None, ..https(true, Some(self.path().join("ca.pem")), NAME) };
        let verified = probe_http(server.address, probe.clone()).await;
        let any = HttpProbe { tls: Some(TlsProbe { verify: false, ca: None }), ..probe };
        assert_eq!(probe_http(server.address, any).await, Ok(()), "without verify, {options}");
        verified
    }
}

async fn passes(test: &str, key: &str, hashes: &[&str], versions: &[&str]) {
    let Some(openssl) = OpenSsl::find(test) else { return };
    for hash in hashes {
        openssl.certificates(key, hash);
        for version in versions {
            assert_eq!(openssl.ask(version).await, Ok(()), "{key} {hash} {version}");
        }
    }
}

const BOTH: &[&str] = &["-tls1_2", "-tls1_3"];

#[tokio::test]
async fn keys_on_p521_are_taken() {
    let key = "-algorithm EC -pkeyopt ec_paramgen_curve:P-521";
    passes("keys_on_p521_are_taken", key, &["-sha256", "-sha384", "-sha512"], BOTH).await;
}

#[tokio::test]
async fn p521_is_taken_with_every_hash_of_the_handshake() {
    let Some(openssl) = OpenSsl::find("p521_is_taken_with_every_hash_of_the_handshake") else { return };
    openssl.certificates("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "-sha512");
    for hash in ["SHA256", "SHA384", "SHA512"] {
        assert_eq!(openssl.ask(&format!("-tls1_2 -sigalgs ECDSA+{hash}")).await, Ok(()), "{hash}");
    }
}

#[tokio::test]
async fn a_key_exchange_on_p521_works() {
    let Some(openssl) = OpenSsl::find("a_key_exchange_on_p521_works") else { return };
    openssl.certificates("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "-sha256");
    for version in BOTH {
        for _ in 0..3 {
            assert_eq!(openssl.ask(&format!("{version} -groups P-521")).await, Ok(()), "{version}");
        }
    }
}

#[tokio::test]
async fn a_forged_signature_by_p521_is_refused() {
    let Some(openssl) = OpenSsl::find("a_forged_signature_by_p521_is_refused") else { return };
    openssl.certificates("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "-sha512");
    // Another CA of the same name, with a key of its own.
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out ca.key");
    openssl.run("req -x509 -new -key ca.key -subj /CN=x -days 30 -out ca.pem");
    let file = openssl.path().join("ca.pem").display().to_string();
    assert_eq!(
        openssl.ask("").await,
        failure(&format!(
            "tls: certificate is signed by another CA \"CN=x\" than the one of that name in {file}"
        ))
    );
}

#[tokio::test]
async fn keys_of_rsa_are_taken() {
    passes(
        "keys_of_rsa_are_taken",
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        &["-sha256", "-sha512"],
        BOTH,
    )
    .await;
    passes("keys_of_rsa_are_taken", "-algorithm RSA -pkeyopt rsa_keygen_bits:4096", &["-sha384"], BOTH).await;
}

#[tokio::test]
async fn keys_on_p256_and_p384_and_of_ed25519_are_taken() {
    let test = "keys_on_p256_and_p384_and_of_ed25519_are_taken";
    for curve in ["P-256", "P-384"] {
        let key = format!("-algorithm EC -pkeyopt ec_paramgen_curve:{curve}");
        passes(test, &key, &["-sha256", "-sha384"], BOTH).await;
    }
    passes(test, "-algorithm ED25519", &[""], BOTH).await;
}

#[tokio::test]
async fn keys_and_signatures_that_are_too_weak_are_named() {
    let Some(openssl) = OpenSsl::find("keys_and_signatures_that_are_too_weak_are_named") else { return };
    let refused = |words: &str| failure(&format!("tls: {words}"));
    openssl.certificates("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "-sha256");
    let weak = "-cipher DEFAULT@SECLEVEL=0";
    assert_eq!(openssl.ask(weak).await, refused("certificate has an RSA key of 1024 bits, 2048 are needed"));
    let (rsa, p256) =
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    openssl.certificates_by(rsa, p256, "-sha256");
    let file = openssl.path().join("ca.pem").display().to_string();
    assert_eq!(
        openssl.ask("").await,
        refused(&format!("CA \"CN=x\" in {file} has an RSA key of 1024 bits, 2048 are needed"))
    );
    openssl.certificates("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "-sha1");
    assert_eq!(
        openssl.ask(weak).await,
        refused("certificate \"CN=server\" is signed with RSA with SHA-1, which is not supported")
    );
    openssl.certificates("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "-sha512");
    assert_eq!(
        openssl.ask("").await,
        refused(
            "certificate \"CN=server\" is signed with ECDSA with SHA-512, \
             which is not supported for the key of its issuer"
        )
    );
}

#[tokio::test]
async fn servers_that_speak_something_else_are_named_by_it() {
    let Some(openssl) = OpenSsl::find("servers_that_speak_something_else_are_named_by_it") else { return };
    openssl.certificates("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "-sha256");
    for (options, words) in [
        (
            "-tls1_1 -cipher DEFAULT@SECLEVEL=0",
            "the server speaks neither TLS 1.2 nor TLS 1.3 (alert protocol version)",
        ),
        (
            "-tls1_2 -cipher AES128-SHA",
            "the server finds no cipher, key exchange or signature that both sides speak, or wants a client \
             certificate (alert handshake failure)",
        ),
        (
            "-tls1_3 -groups X448",
            "the server finds no cipher, key exchange or signature that both sides speak, or wants a client \
             certificate (alert handshake failure)",
        ),
        (
            "-tls1_3 -Verify 1 -verify_return_error",
            "the server wants a client certificate, which probes do not have (alert certificate required)",
        ),
    ] {
        let server = openssl.serve(options);
        let said = probe_http(server.address, https(false, None, NAME)).await;
        assert_eq!(said, failure(&format!("tls: {words}")), "{options}");
    }
}
