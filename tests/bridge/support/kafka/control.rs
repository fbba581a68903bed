//! A Java client that does for the tests what rdkafka cannot: rights, and Java's own choice of a partition.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::prepare::java;

/// See `tests/kafka/java/Control.java`. It ends with its input, which is with the test's process.
pub(super) struct Control {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Control {
    pub(super) fn start(bootstrap_servers: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2>/dev/null", "sh"]).args(java()).args(["-Xmx64m", "Control", bootstrap_servers]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// The answer to a command. The program bounds its own waits.
    pub(super) fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        let Some(answer) = answer.trim_end().strip_prefix("ok") else { panic!("{command}: {answer}") };
        answer.trim().to_owned()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
