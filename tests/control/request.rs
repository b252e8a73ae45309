//! Requests that our client never sends: each gets a 4xx with JSON, and the agent lives.

use anyhow::{Result, ensure};
use lb_tests::test_name;

use crate::{
    agent::Said,
    world::{CONFIG, isolated},
};

#[test]
fn unknown_paths_verbs_and_types_get_4xx_with_json() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let before = agent.services()?;
        let backends = "/v1/services/web/backends";
        let one = "/v1/services/web/backends/web-1";
        let requests = [
            ("GET", "/v1/none", "", 404, "not_found"),
            ("GET", "/v2/status", "", 404, "not_found"),
            ("GET", "/v1/services/none", "", 404, "not_found"),
            ("DELETE", "/v1/services/web/backends/none", "", 404, "not_found"),
            ("DELETE", "/v1/status", "", 405, "method_not_allowed"),
            ("BREW", "/v1/status", "", 405, "method_not_allowed"),
            ("GET", "/v1/services/%zz", "", 400, "bad_request"),
            ("POST", "/v1/services", "", 400, "bad_request"),
            ("POST", "/v1/services", "[]", 400, "bad_request"),
            ("POST", "/v1/services", "{\"name\": ", 400, "bad_request"),
            ("POST", "/v1/services", "\u{0}\u{1}", 400, "bad_request"),
            ("POST", "/v1/services", "{\"name\": 7, \"listen\": true}", 422, "invalid"),
            (
                "POST",
                "/v1/services",
                "{\"name\": \"x\", \"listen\": \"tcp/192.0.2.1:70000\"}",
                422,
                "invalid",
            ),
            (
                "POST",
                "/v1/services",
                "{\"name\": \"web\", \"listen\": \"tcp/192.0.2.1:70\"}",
                409,
                "conflict",
            ),
            ("PATCH", one, "{\"weight\": \"heavy\"}", 400, "bad_request"),
            ("PATCH", one, "{\"colour\": 1}", 400, "bad_request"),
            ("POST", backends, "{\"name\": \"x\", \"address\": 7}", 422, "invalid"),
            (
                "POST",
                backends,
                "{\"name\": \"x\", \"address\": \"10.0.0.9\", \"weight\": -1}",
                422,
                "invalid",
            ),
            ("POST", backends, "{\"name\": \"web-1\", \"address\": \"10.0.0.9\"}", 409, "conflict"),
            ("POST", "/v1/config/apply", "{\"text\": 5}", 400, "bad_request"),
            ("POST", "/v1/config/apply", "{\"text\": \"\"}", 422, "invalid"),
            ("GET", "/v1/events?since=yesterday", "", 400, "bad_request"),
        ];
        for (verb, path, body, status, code) in requests {
            eprintln!("{verb} {path} {body}");
            agent.http(verb, path, body)?.assert_error(status, code);
        }
        agent.unchanged(&before)?;
        agent.assert_alive()
    })
}

#[test]
fn truncated_and_garbled_requests_get_4xx_with_json() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let whole = "POST /v1/services HTTP/1.1\r\nHost: lb\r\nContent-Length: 99\r\n\r\n{\"name\": \"x\"";
        let answer = agent.raw(whole.as_bytes())?;
        ensure!((400..500).contains(&answer.status) && answer.body["code"].is_string(), "{answer:?}");
        for garbled in
            ["nonsense\r\n\r\n", "GET /v1/status HTTP/9.9\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n"]
        {
            agent.raw(garbled.as_bytes())?.assert_error(400, "bad_request");
        }
        // The test waits for no answer here: it checks only that the agent lives.
        for length in 0..whole.len() {
            let _no_answer = agent.raw(&whole.as_bytes()[..length]);
        }
        agent.assert_alive()
    })
}

#[test]
fn bodies_above_1_mib_are_refused_announced_or_not() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let text = "x".repeat(1024 * 1024 + 1);
        agent.http("POST", "/v1/services", &text)?.assert_error(413, "too_large");
        let head = "POST /v1/services HTTP/1.1\r\nHost: lb\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunked = format!("{head}{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
        agent.raw(chunked.as_bytes())?.assert_error(413, "too_large");
        let long = format!("GET /v1/{} HTTP/1.1\r\nHost: lb\r\n\r\n", "a".repeat(200_000));
        let answer = agent.raw(long.as_bytes())?;
        ensure!((400..500).contains(&answer.status) && answer.body["code"].is_string(), "{answer:?}");
        agent.assert_alive()
    })
}

#[test]
fn curl_can_ask_and_change() -> Result<()> {
    let name = test_name!();
    isolated(name, move |world| {
        if world.command("curl")?.arg("--version").output().is_err() {
            lb_tests::privilege::skip(name, "there is no curl");
            return Ok(());
        }
        let agent = world.start(CONFIG)?;
        let curl = |arguments: &[&str]| {
            let socket = world.socket().display().to_string();
            let fixed = ["-sS", "--max-time", "20", "-w", "\n%{http_code}", "--unix-socket", &socket];
            Said::of(world.command("curl")?.args(fixed).args(arguments))?.done()
        };
        let answer = curl(&["http://lb/v1/version"])?;
        ensure!(answer.ends_with("\n200") && answer.contains("\"api_version\""), "{answer}");
        let change = ["-X", "PATCH", "-d", "{\"weight\": 5}", "http://lb/v1/services/web/backends/web-1"];
        let answer = curl(&change)?;
        ensure!(answer.ends_with("\n200"), "{answer}");
        ensure!(agent.json(&["backend", "show", "web/web-1"])?["weight"] == 5);
        let answer = curl(&["http://lb/v1/nothing"])?;
        ensure!(answer.ends_with("\n404") && answer.contains("\"not_found\""), "{answer}");
        Ok(())
    })
}
