//! What is made once and kept in `tests/kafka/target`: jars, classes, a formatted storage. Each is made again when what it is made of changes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use super::super::tests_dir;
use super::{BRIDGE, STRANGER};

/// The name of the cluster: 16 bytes in base64.
pub(super) const CLUSTER_ID: &str = "Y2hhdC1icmlkZ2UtdGVzdA";

/// What is in the folder when it is prepared.
pub(crate) struct Prepared {
    /// The files of a formatted storage with the users in it.
    pub(crate) storage: PathBuf,
    lib: PathBuf,
    classes: PathBuf,
}

static PREPARED: LazyLock<Prepared> = LazyLock::new(prepare);

/// The jars, classes and storage; made now if they are not there.
pub(crate) fn prepared() -> &'static Prepared {
    &PREPARED
}

/// How a Java program of the tests is called: followed by its class and its arguments.
pub(crate) fn java() -> Vec<String> {
    let prepared = prepared();
    start_of_java(&format!("{}/*:{}", prepared.lib.display(), prepared.classes.display()))
}

fn start_of_java(class_path: &str) -> Vec<String> {
    // What starts fast: these processes live for seconds or minutes.
    ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", class_path].map(str::to_owned).to_vec()
}

/// The folder of all that is made, locked against other test processes until the file is dropped.
pub(crate) fn locked() -> (PathBuf, File) {
    let target = tests_dir("kafka/target");
    fs::create_dir_all(&target).unwrap();
    let lock = File::create(target.join("lock")).unwrap();
    lock.lock().unwrap();
    (target, lock)
}

fn prepare() -> Prepared {
    let (target, _lock) = locked();
    let pom = tests_dir("kafka/pom.xml");
    let lib = made(&target, "lib", &[&pom], |folder| {
        let folder = format!("-DoutputDirectory={}", folder.display());
        let goal = ["-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime", &folder];
        // From the local repository where it has everything; the network otherwise.
        let offline = Command::new("mvn").arg("-o").args(goal).current_dir(tests_dir("kafka")).output().unwrap();
        if !offline.status.success() {
            run(Command::new("mvn").args(goal).current_dir(tests_dir("kafka")));
        }
    });
    let sources =
        ["kafka/java/Control.java", "kafka/java/Forgery.java", "consumers/java/Events.java", "consumers/java/Count.java"].map(tests_dir);
    let made_of: Vec<&Path> = std::iter::once(&pom).chain(&sources).map(PathBuf::as_path).collect();
    let classes = made(&target, "classes", &made_of, |folder| {
        run(Command::new("javac").arg("-cp").arg(format!("{}/*", lib.display())).arg("-d").arg(folder).args(&sources));
    });
    let this = tests_dir("bridge/support/kafka/prepare.rs");
    let storage = made(&target, "storage", &[&pom, &this], |folder| format_storage(&lib, folder));
    Prepared { storage, lib, classes }
}

/// A folder that is made by `make` unless it is there, and made of the same files.
pub(crate) fn made(target: &Path, name: &str, of: &[&Path], make: impl FnOnce(&Path)) -> PathBuf {
    let mut digest = Sha256::new();
    for file in of {
        digest.update(fs::read(file).unwrap());
    }
    let stamp = hex(&digest.finalize());
    let (folder, stamp_file) = (target.join(name), target.join(format!("{name}.stamp")));
    if fs::read_to_string(&stamp_file).is_ok_and(|known| known == stamp) && folder.is_dir() {
        return folder;
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    make(&folder);
    fs::write(stamp_file, stamp).unwrap();
    folder
}

/// Formatting takes a JVM's start, so it is done once: a storage does not depend on its place, nor on ports, and names its process in two lines only.
fn format_storage(lib: &Path, folder: &Path) {
    let properties = folder.with_extension("properties");
    let text = format!(
        "process.roles=controller\nnode.id=9\ncontroller.quorum.voters=9@127.0.0.1:1\nlisteners=CONTROLLER://127.0.0.1:1\n\
         controller.listener.names=CONTROLLER\nlistener.security.protocol.map=CONTROLLER:PLAINTEXT\nlog.dirs={}\n",
        folder.display()
    );
    fs::write(&properties, text).unwrap();
    let mut arguments = start_of_java(&format!("{}/*", lib.display()));
    arguments.extend(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"].map(str::to_owned));
    arguments.push(properties.display().to_string());
    for user in [BRIDGE, STRANGER] {
        arguments.extend(["--add-scram".to_owned(), format!("SCRAM-SHA-512=[name={},password={}]", user.name, user.password)]);
    }
    run(Command::new(&arguments[0]).args(&arguments[1..]));
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Runs a program to its end.
///
/// # Panics
/// Where it fails; the message has its output.
pub(crate) fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(done.status.success(), "{command:?}: {}", said.concat());
}
