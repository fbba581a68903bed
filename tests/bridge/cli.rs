//! The command line, driven from outside: the real binary, its output and its exit codes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CONFIGURATION: i32 = 78;

/// What one run of the binary came to.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the binary in an environment that holds nothing else.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-bridge"));
    let Output { status, stdout, stderr } = command.env_clear().envs(environment.iter().copied()).args(arguments).output().unwrap();
    Run { code: status.code(), stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

/// A file in a folder that goes with the test.
struct File {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bridge.toml");
        std::fs::write(&path, text).unwrap();
        Self { dir, path }
    }

    fn beside(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self) -> &str {
        utf8(&self.path)
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

const RIGHT: &str = "[[apps]]\nsdk_app_id = 1400000000\n";

#[test]
fn version_and_help_are_no_failures() {
    let version = run(&["--version"], &[]);
    assert_eq!((version.code, version.stdout.as_str()), (Some(0), concat!("chat-bridge ", env!("CARGO_PKG_VERSION"), "\n")));
    for arguments in
        [&["--help"][..], &["check", "--help"], &["config", "--help"], &["config", "dump", "--help"], &["healthcheck", "--help"]]
    {
        let help = run(arguments, &[]);
        assert_eq!(help.code, Some(0), "{arguments:?}");
        assert!(help.stdout.contains("Usage: chat-bridge") && help.stdout.contains("--config <FILE>"), "{}", help.stdout);
    }
}

#[test]
fn verbs_that_take_no_configuration_do_not_show_it_and_bear_it() {
    let file = File::new(RIGHT);
    for arguments in [&["simulate", "load"][..], &["simulate", "verify"], &["completions"]] {
        let help = run(&[arguments, &["--help"]].concat(), &[]);
        assert_eq!(help.code, Some(0), "{arguments:?}: {}", help.stderr);
        assert!(!help.stdout.contains("--config"), "{}", help.stdout);
    }
    for arguments in [["completions", "bash", "--config", file.path()], ["--config", file.path(), "completions", "bash"]] {
        let script = run(&arguments, &[("CHAT_BRIDGE_CONFIG", "")]);
        assert_eq!(script.code, Some(0), "{arguments:?}: {}", script.stderr);
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for arguments in
        [&[][..], &["chekc"], &["check", "--fromat", "json"], &["check", "--format", "xml"], &["config"], &["completions", "tcl"]]
    {
        let usage = run(arguments, &[]);
        assert_eq!(usage.code, Some(USAGE), "{arguments:?}: {}", usage.stderr);
        assert!(usage.stdout.is_empty() && !usage.stderr.is_empty(), "{arguments:?}");
    }
    assert!(run(&["chekc"], &[]).stderr.contains("'check'"));
}

#[test]
fn check_is_content_with_a_right_configuration() {
    let file = File::new(RIGHT);
    let check = run(&["check", "--config", file.path()], &[("CHAT_BRIDGE_JOURNAL__DIR", "/")]);
    assert_eq!(check.code, Some(0), "{}{}", check.stdout, check.stderr);
    assert!(check.stdout.ends_with("no problems\n") && check.stderr.is_empty(), "{}", check.stderr);
}

#[test]
fn check_has_librdkafka_judge_its_properties_and_asks_nobody() {
    let file = File::new(&format!("{RIGHT}\n[kafka.properties]\n'security.protocol' = 'SASL_PLAINTEXT'\n'sasl.mechanism' = 'PLAAIN'\n"));
    let check = run(&["check", "--config", file.path()], &[]);
    assert_eq!((check.code, check.stdout.lines().count()), (Some(CONFIGURATION), 1), "{}", check.stdout);
    assert!(check.stdout.starts_with("kafka.properties: failed to ") && check.stdout.contains("SASL mechanism"), "{}", check.stdout);
}

#[test]
fn what_is_written_is_for_no_other_user_and_for_the_group_only_where_the_umask_lets_it() {
    for (umask, expected) in [("000", 0o640), ("022", 0o640), ("077", 0o600)] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("load.log");
        // Nobody listens there: the log has its head all the same.
        let load = format!("umask {umask}; exec \"$0\" simulate load --target http://127.0.0.1:9/ --count 1 --log \"$1\"");
        Command::new("sh").args(["-c", &load]).arg(env!("CARGO_BIN_EXE_chat-bridge")).arg(&log).output().unwrap();
        assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, expected, "{umask}");
    }
}

#[test]
fn check_looks_into_the_files_as_a_start_does() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, "token\n".repeat(65)).unwrap();
    let admin = dir.path().join("admin");
    std::fs::write(&admin, " \n".repeat(40_000) + "token").unwrap();
    let text = format!("[[apps]]\nsdk_app_id = 1400000000\ntokens_file = {tokens:?}\n[admin]\ntoken_file = {admin:?}\n");
    let check = run(&["check", "--config", File::new(&text).path()], &[]);
    assert_eq!((check.code, check.stderr.as_str()), (Some(CONFIGURATION), "chat-bridge: the configuration has 2 problems\n"));
    for part in ["apps: failed to start with tokens file ", "it has more than 64", "admin.token_file: it is larger than 65536 bytes"] {
        assert!(check.stdout.contains(part), "{part}: {}", check.stdout);
    }
}

#[test]
fn check_prints_every_problem_with_its_key_and_ends_with_78() {
    let file = File::new(
        "apps = [{sdk_app_id = 1, tokens_file = '/no/such/file'}]\n[http]\nbody_mx = '1MiB'\n[kafka.properties]\n'sasl.password' = 'hunter2'\n",
    );
    let environment = [("CHAT_BRIDGE_JOURNAL__ANSWER_MAX", "5s"), ("CHAT_BRIDGE_KAFKA__PROPERTEIS", "{'sasl.password'='hunter2'}")];
    let check = run(&["check", "--config", file.path()], &environment);
    assert_eq!(check.code, Some(CONFIGURATION));
    let origin = format!("(file {})", file.path());
    for (key, part) in [
        ("http.body_mx: ", "did you mean `http.body_max`?"),
        ("journal.answer_max: ", "(variable CHAT_BRIDGE_JOURNAL__ANSWER_MAX)"),
        ("kafka.properteis: ", "did you mean `kafka.properties`? (variable CHAT_BRIDGE_KAFKA__PROPERTEIS)"),
        ("kafka.properties.\"sasl.password\": ", origin.as_str()),
        ("apps[0].tokens_file: ", "/no/such/file"),
    ] {
        let found = check.stdout.lines().find(|line| line.starts_with(key));
        assert!(found.is_some_and(|line| line.contains(part)), "{key}: {}", check.stdout);
    }
    assert_eq!(check.stdout.lines().count(), 5, "{}", check.stdout);
    assert_eq!(check.stderr, "chat-bridge: the configuration has 5 problems\n");

    let check = run(&["check", "--format", "json", "--config", file.path()], &environment);
    assert_eq!(check.code, Some(CONFIGURATION));
    assert!(!check.stdout.contains("hunter2"), "{}", check.stdout);
    let report: serde_json::Value = serde_json::from_str(&check.stdout).unwrap();
    let keys: Vec<&str> = report["problems"].as_array().unwrap().iter().map(|problem| problem["key"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), 5);
    assert!(keys.contains(&"http.body_mx"));
}

#[test]
fn check_wants_an_app_and_dump_does_not() {
    let check = run(&["check"], &[]);
    assert_eq!(check.code, Some(CONFIGURATION));
    assert!(check.stdout.starts_with("apps: at least one"), "{}", check.stdout);
    assert_eq!(run(&["check"], &[("CHAT_BRIDGE_APPS", "[{sdk_app_id=1}]")]).code, Some(0));
    assert_eq!(run(&["config", "dump"], &[]).code, Some(0));
}

#[test]
fn the_file_is_named_anywhere_on_the_line_or_by_a_variable_which_the_line_overrides() {
    let (wrong, right) = (File::new("[http]\nno = 1\n"), File::new(RIGHT));
    assert_eq!(run(&["--config", right.path(), "check"], &[]).code, Some(0));
    assert_eq!(run(&["check"], &[("CHAT_BRIDGE_CONFIG", right.path())]).code, Some(0));
    assert_eq!(run(&["check"], &[("CHAT_BRIDGE_CONFIG", wrong.path())]).code, Some(CONFIGURATION));
    assert_eq!(run(&["check", "--config", right.path()], &[("CHAT_BRIDGE_CONFIG", wrong.path())]).code, Some(0));
    assert_eq!(run(&["--config", right.path(), "check"], &[("CHAT_BRIDGE_CONFIG", wrong.path())]).code, Some(0));
    for empty in [run(&["check"], &[("CHAT_BRIDGE_CONFIG", "")]), run(&["check", "--config", ""], &[])] {
        assert_eq!(empty.code, Some(CONFIGURATION), "{}", empty.stderr);
        assert!(empty.stdout.contains("is empty") && empty.stdout.contains("CHAT_BRIDGE_CONFIG"), "{}", empty.stdout);
    }
    let missing = run(&["check", "--config", "/no/such/file"], &[]);
    assert_eq!(missing.code, Some(CONFIGURATION));
    assert!(missing.stdout.contains("/no/such/file"), "{}", missing.stdout);
}

#[test]
fn what_kubernetes_makes_for_a_service_is_left_alone_and_unknown_variables_are_not() {
    let kubernetes = [
        ("CHAT_BRIDGE_APPS", "[{sdk_app_id=1}]"),
        ("CHAT_BRIDGE_SERVICE_HOST", "10.0.0.1"),
        ("CHAT_BRIDGE_SERVICE_PORT_HTTP", "8080"),
        ("CHAT_BRIDGE_PORT", "tcp://10.0.0.1:8080"),
        ("CHAT_BRIDGE_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(run(&["check"], &kubernetes).code, Some(0));
    let unknown = run(&["check"], &[("CHAT_BRIDGE_APPS", "[{sdk_app_id=1}]"), ("CHAT_BRIDGE_HTTP_LISTEN", "0.0.0.0:1")]);
    assert_eq!(unknown.code, Some(CONFIGURATION));
    assert!(unknown.stdout.contains("CHAT_BRIDGE_HTTP__LISTEN"), "{}", unknown.stdout);
}

#[test]
fn a_dump_reads_back_as_the_same_configuration() {
    let file = File::new(RIGHT);
    let secret = file.beside("password", "hunter2\n");
    let text = format!(
        "{RIGHT}tokens_file = '{secret}'\n[kafka.properties]\n'security.protocol' = 'SASL_SSL'\n[kafka.secret_files]\n'sasl.password' = '{secret}'\n\
         [topics.config.'im.x']\n'retention.ms' = 5\n[answers]\n'Group.CallbackBeforeSendMsg' = {{ error_code = 10100, error_info = 'closed' }}\n",
        secret = utf8(&secret)
    );
    let file = File::new(&text);
    let environment = [("CHAT_BRIDGE_HTTP__IDLE_TIMEOUT", "90s"), ("CHAT_BRIDGE_KAFKA__INSTANCE", "0")];
    let first = run(&["config", "dump", "--config", file.path()], &environment);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(first.stdout.contains("idle_timeout = \"90s\"") && !first.stdout.contains("hunter2"), "{}", first.stdout);
    let again = File::new(&first.stdout);
    assert_eq!(run(&["config", "dump", "--config", again.path()], &[]).stdout, first.stdout);

    let json = run(&["config", "dump", "--format", "json", "--config", file.path()], &environment);
    let tree: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&tree["http"]["idle_timeout"], &tree["kafka"]["instance"]), (&"90s".into(), &"0".into()));
}

#[test]
fn a_secret_is_printed_by_nothing() {
    let secret = "hunter2";
    for (toml, variables) in [
        ("[kafka.properties]\n'sasl.password' = 'hunter2'\n", &[][..]),
        ("[kafka.properties]\n'sasl.password' = hunter2\n", &[]),
        ("[kafka.properties]\n'sasl.passwort' = 'hunter2'\n", &[]),
        ("[kafka.properties]\n'sasl.password' = ['hunter2']\n", &[]),
        ("[kafka]\nproperties = 'hunter2'\n", &[]),
        ("[kafka.secret_files]\n'sasl.password' = 'hunter2'\n[[apps]]\nsdk_app_id = 'x'\n", &[]),
        ("", &[("CHAT_BRIDGE_KAFKA__PROPERTIES", "{'sasl.password'='hunter2'}")]),
        ("", &[("CHAT_BRIDGE_KAFKA__PROPERTIES", "{'sasl.password'='hunter2'")]),
        ("", &[("CHAT_BRIDGE_KAFKA", "hunter2")]),
        ("", &[("CHAT_BRIDGE_KAFKA__PASSWORD", "hunter2")]),
    ] {
        let file = File::new(toml);
        for verb in [&["check"][..], &["check", "--format", "json"], &["config", "dump"], &["config", "dump", "--format", "json"]] {
            let arguments: Vec<&str> = verb.iter().copied().chain(["--config", file.path()]).collect();
            let ran = run(&arguments, variables);
            assert_eq!(ran.code, Some(CONFIGURATION), "{toml}{variables:?} {verb:?}");
            assert!(
                !ran.stdout.contains(secret) && !ran.stderr.contains(secret),
                "{toml}{variables:?} {verb:?}: {}{}",
                ran.stdout,
                ran.stderr
            );
        }
    }
}

#[test]
fn dump_prints_nothing_of_a_configuration_that_is_wrong() {
    let dump = run(&["config", "dump"], &[("CHAT_BRIDGE_HTTP__BODY_MAX", "0")]);
    assert_eq!((dump.code, dump.stdout.as_str()), (Some(CONFIGURATION), ""));
    let expected = "chat-bridge: the configuration has a problem\nhttp.body_max: is at least 1KiB";
    assert!(dump.stderr.starts_with(expected), "{}", dump.stderr);
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let completions = run(&["completions", shell], &[]);
        assert_eq!(completions.code, Some(0), "{shell}");
        assert!(completions.stdout.contains("healthcheck"), "{shell}");
    }
}

/// A listener that sends `answer` to the first who asks, or nothing at all, and the port as a variable's value.
fn bridge(answer: Option<&'static str>) -> (thread::JoinHandle<String>, String) {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let listen = format!("0.0.0.0:{}", listener.local_addr().unwrap().port());
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
            None => {
                // Until the other side gives up.
                let _ = stream.read(&mut [0; 1]);
            }
        }
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (served, listen)
}

#[test]
fn healthcheck_asks_whether_the_bridge_is_live() {
    for (answer, code, part) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 0, ""),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\nstalled ingress-0: turned 20000 ms ago\n", UNAVAILABLE, "stalled ingress-0"),
        ("SSH-2.0-x\r\n", UNAVAILABLE, "does not speak HTTP"),
    ] {
        let (served, listen) = bridge(Some(answer));
        let health = run(&["healthcheck"], &[("CHAT_BRIDGE_ADMIN__LISTEN", &listen)]);
        assert_eq!(health.code, Some(code), "{}", health.stderr);
        assert!(health.stderr.contains(part), "{}", health.stderr);
        assert!(served.join().unwrap().starts_with("GET /livez HTTP/1.1\r\n"));
    }
}

#[test]
fn healthcheck_asks_where_it_is_told_to_and_then_reads_no_configuration() {
    let wrong = [("CHAT_BRIDGE_CONFIG", "/does/not/exist.toml")];
    let (served, listen) = bridge(Some("HTTP/1.1 200 OK\r\n\r\n"));
    let health = run(&["healthcheck", "--address", &listen], &wrong);
    assert_eq!(health.code, Some(0), "{}", health.stderr);
    assert!(served.join().unwrap().starts_with("GET /livez HTTP/1.1\r\n"));

    assert_eq!(run(&["healthcheck"], &wrong).code, Some(CONFIGURATION));
    for nowhere in ["127.0.0.1:0", "9090", "localhost"] {
        assert_eq!(run(&["healthcheck", "--address", nowhere], &[]).code, Some(USAGE), "{nowhere}");
    }
}

#[test]
fn healthcheck_gives_up_on_a_bridge_that_is_not_there_or_does_not_answer() {
    let free = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap().local_addr().unwrap();
    let health = run(&["healthcheck"], &[("CHAT_BRIDGE_ADMIN__LISTEN", &free.to_string())]);
    assert_eq!(health.code, Some(UNAVAILABLE), "{}", health.stderr);

    let (served, listen) = bridge(None);
    let start = Instant::now();
    let health = run(&["healthcheck"], &[("CHAT_BRIDGE_ADMIN__LISTEN", &listen)]);
    assert_eq!(health.code, Some(UNAVAILABLE), "{}", health.stderr);
    assert!(health.stderr.contains("no answer in time"), "{}", health.stderr);
    assert!(start.elapsed() < Duration::from_secs(20));
    served.join().unwrap();
}
