//! Certificates of the brokers, and the authorities that sign them, by OpenSSL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::prepare::run;

const KEY: [&str; 6] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch"];

/// Whether a server shows the certificate of this PEM file to new connections.
pub(super) fn shows(port: u16, keystore: &Path) -> bool {
    let address = format!("127.0.0.1:{port}");
    let client = ["s_client", "-connect", &address, "-servername", "localhost"];
    let shown = Command::new("openssl").args(client).stdin(Stdio::null()).output().unwrap().stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    certificate(&shown).is_some() && certificate(&shown) == certificate(&fs::read_to_string(keystore).unwrap())
}

/// The first certificate of a text.
fn certificate(text: &str) -> Option<&str> {
    Some(text.split_once("-----BEGIN CERTIFICATE-----")?.1.split_once("-----END CERTIFICATE-----")?.0)
}

/// An authority with a folder of its own.
pub(crate) struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Makes one, and its folder.
    pub(crate) fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let authority = Self { dir: dir.to_owned() };
        let files = ["req", "-x509", "-days", "30", "-subj", "/CN=test-ca", "-keyout", "ca.key", "-out", "ca.pem"];
        let uses = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
        authority.openssl(files.iter().chain(&KEY).chain(&uses));
        authority
    }

    /// Its own certificate: what clients trust.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A key and a new certificate for `localhost`, in one PEM file of that name.
    pub(crate) fn keystore(&self, name: &str) -> PathBuf {
        let keystore = self.dir.join(name);
        fs::write(self.dir.join("san.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
        self.openssl(["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"].iter().chain(&KEY));
        let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30"];
        self.openssl(sign.iter().chain(&["-extfile", "san.ext", "-out", "server.pem"]));
        let parts = ["server.key", "server.pem", "ca.pem"].map(|file| fs::read_to_string(self.dir.join(file)).unwrap());
        fs::write(&keystore, parts.concat()).unwrap();
        keystore
    }

    fn openssl<'a>(&self, arguments: impl IntoIterator<Item = &'a &'a str>) {
        run(Command::new("openssl").args(arguments).current_dir(&self.dir));
    }
}
