//! Certificates of brokers, bridges and their clients, and the authorities that sign them, by OpenSSL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kafka::run;

const KEY: [&str; 6] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch"];

/// Whether a server shows the certificate of this PEM file to new connections.
pub(crate) fn shows(port: u16, keystore: &Path) -> bool {
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

/// A certificate and its private key.
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
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
        let pair = self.pair("server", 30);
        let parts = [&pair.key, &pair.certificate].map(|file| fs::read_to_string(file).unwrap());
        fs::write(&keystore, parts.concat()).unwrap();
        keystore
    }

    /// A key and a new certificate for `localhost`, in files of that name; it ends after so many days. The authority's own certificate follows the new one.
    pub(crate) fn pair(&self, name: &str, days: u32) -> Pair {
        let [key, request, signed] = ["key", "csr", "pem"].map(|end| format!("{name}.{end}"));
        fs::write(self.dir.join("san.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
        self.openssl(["req", "-subj", "/CN=localhost", "-keyout", &key, "-out", &request].iter().chain(&KEY));
        let days = days.to_string();
        let sign = ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", &days];
        self.openssl(sign.iter().chain(&["-extfile", "san.ext", "-out", &signed]));
        let certificate = self.dir.join(&signed);
        let chain = [&certificate, &self.certificate()].map(|file| fs::read_to_string(file).unwrap());
        fs::write(&certificate, chain.concat()).unwrap();
        Pair { certificate, key: self.dir.join(key) }
    }

    fn openssl<'a>(&self, arguments: impl IntoIterator<Item = &'a &'a str>) {
        run(Command::new("openssl").args(arguments).current_dir(&self.dir));
    }
}
