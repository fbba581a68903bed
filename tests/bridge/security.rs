//! Rights withdrawn and granted, certificates and passwords changed, under load.

use std::fs;
use std::path::Path;

use crate::support::bridge::{PATIENCE, prefix};
use crate::support::eventually;
use crate::support::kafka::{self, Kafka, Signer, User};
use crate::support::proxy::Network;
use crate::support::trial::{KINDS, Plan, Trial};

const FLOWING: [&str; 3] = ["group-disband", "member-exit", "group-full"];

/// Puts other content into a file at once, as a mounted secret changes.
fn replace(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, path).unwrap();
}

fn grant(kafka: &Kafka, user: User, topic: &str) {
    for operation in ["Write", "Describe"] {
        kafka.grant(user, topic, operation);
    }
}

/// A bridge that comes as this user, with the files `ca.pem` and `password` of `dir`.
fn secured(kafka: &Kafka, name: &'static str, user: User, dir: &Path) -> Trial {
    kafka.set_password(user.name, user.password);
    let (ca, password) = (dir.join("ca.pem"), dir.join("password"));
    fs::copy(kafka.ca(), &ca).unwrap();
    fs::write(&password, user.password).unwrap();
    let mut properties = kafka.sasl_properties(user);
    properties.insert("ssl.ca.location".to_owned(), ca.display().to_string());
    let lines: Vec<String> = properties.into_iter().map(|(key, value)| format!("{key:?} = {value:?}")).collect();
    let settings = format!("[kafka.properties]\n{}\n[kafka.secret_files]\n\"sasl.password\" = {password:?}\n", lines.join("\n"));
    let plan = Plan { settings, ..Plan::new(name, kafka.sasl_servers()) };
    Trial::start_with(kafka, &plan, prefix(name), |topics| {
        for topic in topics {
            grant(kafka, user, topic);
        }
    })
}

fn is_parked(trial: &Trial, kind: &str, parked: f64) {
    let series = format!("chat_bridge_topic_parked{{topic=\"{}\"}}", trial.topic(kind));
    eventually(&format!("{series} is {parked}"), PATIENCE, || (trial.bridge.metric(&series) == parked).then_some(()));
}

#[test]
fn rights_that_are_withdrawn_park_their_topic_until_they_are_granted() {
    const USER: User = User { name: "withdrawn", password: "withdrawn-sesame" };
    let kafka = kafka::exclusive();
    let dir = tempfile::tempdir().unwrap();
    let trial = secured(&kafka, "withdrawn", USER, dir.path());

    kafka.revoke(USER, &trial.topic("member-exit"));
    is_parked(&trial, "member-exit", 1.0);
    trial.stands_still(&["member-exit"]);
    trial.flows_to(&["group-disband", "group-full"]);
    grant(&kafka, USER, &trial.topic("member-exit"));
    trial.flows();
    is_parked(&trial, "member-exit", 0.0);

    for kind in KINDS {
        kafka.revoke(USER, &trial.topic(kind));
    }
    for kind in FLOWING {
        is_parked(&trial, kind, 1.0);
    }
    trial.stands_still(&FLOWING);
    for kind in KINDS {
        grant(&kafka, USER, &trial.topic(kind));
    }
    trial.flows();
    for kind in FLOWING {
        is_parked(&trial, kind, 0.0);
    }
    trial.end(&kafka);
}

#[test]
fn a_new_certificate_and_a_new_password_need_no_restart() {
    const USER: User = User { name: "renewed", password: "renewed-sesame" };
    let mut kafka = kafka::exclusive();
    let dir = tempfile::tempdir().unwrap();
    let trial = secured(&kafka, "renewed", USER, dir.path());
    let refused = |expected: f64| {
        eventually(&format!("the refusal shows as {expected}"), PATIENCE, || {
            (trial.bridge.metric("chat_bridge_kafka_authentication_failed") == expected).then_some(())
        });
    };

    // Until the last broker has learnt of it: connections that are there would go on for ever.
    let published = || trial.count("chat_bridge_events_published_total");
    let shut_out = |network: &Network| {
        eventually("no broker lets the bridge in", PATIENCE, || {
            network.reset();
            let before = published();
            trial.accepts(1_000);
            (published() == before).then_some(())
        });
    };

    // Renewed by the authority that we trust: nobody has to do anything.
    kafka.change_certificate(Signer::Same);
    kafka.network().reset();
    trial.flows();
    assert_eq!(trial.count("chat_bridge_kafka_producer_rebuilds_total"), 0);

    let ca = kafka.change_certificate(Signer::Another);
    shut_out(kafka.network());
    refused(1.0);
    replace(&dir.path().join("ca.pem"), &fs::read(ca).unwrap());
    trial.flows();
    refused(0.0);

    kafka.set_password(USER.name, "renewed-again");
    shut_out(kafka.network());
    refused(1.0);
    replace(&dir.path().join("password"), b"renewed-again\n");
    trial.flows();
    refused(0.0);

    let log = trial.bridge.log();
    assert!(!log.contains("sesame") && !log.contains("renewed-again"), "no secret is logged: {log}");
    assert_eq!(log.matches("kafka producer built again").count(), 2, "for the authority and for the password: {log}");
    trial.end(&kafka);
}
