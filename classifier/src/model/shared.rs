//! A model that a worker shares with its measurement.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Columns, Model, ModelError, Place, Request};
use crate::metrics::ModelMetrics;

/// A model that a worker and the measurement before the first batch share.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Box<dyn Model>>>);

impl Shared {
    pub fn new(model: Box<dyn Model>) -> Self {
        Self(Arc::new(Mutex::new(model)))
    }

    /// For the measurement. The model ends with the worker.
    pub fn meter(&self) -> Meter {
        Meter(Arc::downgrade(&self.0))
    }
}

/// A worker's model, to be measured.
#[derive(Clone)]
pub struct Meter(Weak<Mutex<Box<dyn Model>>>);

impl Meter {
    /// `None` if the worker has ended.
    pub fn model(&self) -> Option<Shared> {
        self.0.upgrade().map(Shared)
    }
}

impl Model for Shared {
    fn send(&mut self, request: &Request<'_>) -> Result<(), ModelError> {
        self.0.lock().send(request)
    }

    fn recv(&mut self) -> Result<Vec<u8>, ModelError> {
        self.0.lock().recv()
    }

    fn append(
        &mut self,
        answer: Vec<u8>,
        request: &Request<'_>,
        results: &mut Vec<u8>,
    ) -> Result<Columns, ModelError> {
        self.0.lock().append(answer, request, results)
    }

    /// Holds the model for all steps, since the measurement of a connection that was lost may not be over.
    fn classify(&mut self, request: &Request<'_>, results: &mut Vec<u8>) -> Result<Columns, ModelError> {
        self.0.lock().classify(request, results)
    }

    fn prepare(&mut self) -> Result<(), ModelError> {
        self.0.lock().prepare()
    }

    fn timeout(&self) -> Duration {
        self.0.lock().timeout()
    }

    fn metrics(&self) -> ModelMetrics {
        self.0.lock().metrics()
    }

    fn place(&self) -> Place {
        self.0.lock().place()
    }
}

#[cfg(test)]
mod tests {
    use columns::Table;

    use super::*;
    use crate::model::Typed;

    /// Answers with the length of the request's header, and has room for one request.
    #[derive(Default)]
    struct Numbered {
        sent: Option<usize>,
    }

    impl Model for Numbered {
        fn send(&mut self, request: &Request<'_>) -> Result<(), ModelError> {
            assert_eq!(self.sent.replace(request.header.len()), None, "it has a request");
            std::thread::sleep(Duration::from_micros(100));
            Ok(())
        }

        fn recv(&mut self) -> Result<Vec<u8>, ModelError> {
            Ok(vec![0; self.sent.take().unwrap()])
        }

        fn append(
            &mut self,
            answer: Vec<u8>,
            request: &Request<'_>,
            _: &mut Vec<u8>,
        ) -> Result<Columns, ModelError> {
            assert_eq!(answer.len(), request.header.len(), "the answer is to another request");
            Ok(Columns::default())
        }
    }

    #[test]
    fn two_connections_that_measure_a_model_get_their_own_answers() {
        let shared = Shared::new(Box::<Numbered>::default());
        std::thread::scope(|scope| {
            for header in [&b"a"[..], b"bb", b"ccc"] {
                let mut model = shared.clone();
                scope.spawn(move || {
                    let table = Table::default();
                    let typed = Typed { table: &table, rows: 0..0 };
                    let limit = Duration::MAX;
                    let request = Request { header, records: &[], typed, numbers: None, limit };
                    for _ in 0..50 {
                        model.classify(&request, &mut Vec::new()).unwrap();
                    }
                });
            }
        });
    }
}
