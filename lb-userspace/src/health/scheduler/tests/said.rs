//! What agents of backends say, and that their silence changes nothing.

use std::sync::Mutex;

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::health::said::Leave;

/// An agent on `address` that answers each connection with what `line` has then.
async fn agent(address: SocketAddr, line: &Arc<Mutex<&'static str>>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let line = Arc::clone(line);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let line = *line.lock().unwrap();
            let _ = stream.write_all(line.as_bytes()).await;
        }
    });
    (address, task)
}

fn asking(port: u16) -> Health {
    Health { probe: Probe::AgentCheck("".into()), ..health(port) }
}

#[tokio::test]
async fn what_an_agent_says_is_reported_with_its_verdict_and_holds_in_silence() {
    let line = Arc::new(Mutex::new("75% drain\n"));
    let (address, task) = agent((LOCALHOST, 0).into(), &line).await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", asking(address.port()))]);
    let first = next(&mut updates).await;
    let drains = Said { leave: Some(Leave::Drain), percent: Some(75) };
    assert_eq!((first.verdict, first.said), (Verdict::Up, drains), "in one update");
    *line.lock().unwrap() = "ready maxconn:20\n";
    let ready = next(&mut updates).await;
    let part = Said { leave: None, percent: Some(75) };
    assert_eq!((ready.verdict, ready.previous, ready.said), (Verdict::Up, Verdict::Up, part));
    // It says what is no word, then nothing, then it is gone: no update, and what holds is as before.
    for garbage in ["HTTP/1.1 400 Bad Request\r\n", "", "0%down"] {
        *line.lock().unwrap() = garbage;
        nothing(&mut updates, Duration::from_millis(300)).await;
    }
    task.abort();
    until(&scheduler, |rows| rows[0].last == Some(Err("agent: connection refused".into()))).await;
    nothing(&mut updates, Duration::from_millis(300)).await;
    let row = scheduler.snapshot().remove(0);
    assert_eq!((row.verdict, row.said, row.failures), (Verdict::Up, part, 0));
    assert_eq!(scheduler.troubles()["web"].reason.as_deref(), Some("agent: connection refused"));
    // It comes back and says that the backend is down.
    *line.lock().unwrap() = "down 40% # disk full\n";
    let (_, _task) = agent(address, &line).await;
    let weight = next(&mut updates).await;
    assert_eq!((weight.verdict, weight.said.percent), (Verdict::Up, Some(40)), "one failure is not enough");
    let down = next(&mut updates).await;
    assert_eq!((down.verdict, down.last), (Verdict::Down, Err("agent: says down: \"disk full\"".into())));
    // A weight alone does not bring it back.
    *line.lock().unwrap() = "75%\n";
    assert_eq!(next(&mut updates).await.said, part);
    nothing(&mut updates, Duration::from_millis(300)).await;
    *line.lock().unwrap() = "up\n";
    assert_eq!(next(&mut updates).await.verdict, Verdict::Up);
}

#[tokio::test]
async fn a_new_list_of_targets_keeps_what_was_said() {
    let line = Arc::new(Mutex::new("drain\n"));
    let (address, task) = agent((LOCALHOST, 0).into(), &line).await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", asking(address.port()))]);
    assert_eq!(next(&mut updates).await.said.leaves(), Some("drain"));
    task.abort();
    let slower = Health { interval: Duration::from_millis(150), ..asking(address.port()) };
    scheduler.set_targets(vec![target("a", slower), target("b", asking(address.port()))]);
    until(&scheduler, |rows| rows.len() == 2).await;
    assert_eq!(scheduler.snapshot()[0].said.leaves(), Some("drain"), "the same backend, asked otherwise");
    assert_eq!(scheduler.snapshot()[1].said, Said::default());
    let known =
        Target { said: Said { leave: None, percent: Some(30) }, ..target("c", asking(address.port())) };
    scheduler.set_targets(vec![known]);
    until(&scheduler, |rows| rows[0].backend == "c" && rows[0].said.percent == Some(30)).await;
    nothing(&mut updates, Duration::from_millis(200)).await;
}
