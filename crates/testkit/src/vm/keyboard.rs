//! What a person at a machine's serial console types.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

/// A hand at the console. What the machine has not taken yet when this is dropped is lost.
#[derive(Debug)]
pub struct Keyboard {
    keys: UnixStream,
    reader: Option<JoinHandle<()>>,
}

impl Keyboard {
    /// Connects to the emulator's end of the console.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let keys = UnixStream::connect(socket)?;
        let mut screen = keys.try_clone()?;
        // The log has what the machine writes; but a connection that nobody reads stops the
        // machine's serial line as soon as the socket's buffer is full.
        let reader = thread::spawn(move || {
            let _ = io::copy(&mut screen, &mut io::sink());
        });
        Ok(Self { keys, reader: Some(reader) })
    }

    /// Types a line and the return key.
    ///
    /// # Errors
    ///
    /// When the machine has gone.
    pub fn type_line(&mut self, line: &str) -> io::Result<()> {
        self.keys.write_all(format!("{line}\r").as_bytes())
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let _ = self.keys.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn line_arrives_while_the_machine_writes_more_than_any_buffer_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        let machine = thread::spawn(move || {
            let (mut line, _) = listener.accept().unwrap();
            line.write_all(&vec![b'.'; 4 << 20]).unwrap();
            let mut typed = Vec::new();
            BufReader::new(line).read_until(b'\r', &mut typed).unwrap();
            typed
        });
        let mut keyboard = Keyboard::connect(&path).unwrap();
        keyboard.type_line("key").unwrap();
        assert_eq!(machine.join().unwrap(), b"key\r");
    }

    #[test]
    fn machine_that_is_off_has_no_keyboard() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Keyboard::connect(&folder.path().join("console")).is_err());
    }
}
