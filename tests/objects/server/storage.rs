//! The objects, in files, and what `s3s` and `s3s-fs` do otherwise than S3.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hyper::Method;
use hyper::header::CONTENT_LENGTH;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, ETagCondition, GetObjectInput, GetObjectOutput, HeadBucketInput,
    HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
    ListPartsInput, ListPartsOutput, PutObjectInput, PutObjectOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;

type Answer<T> = S3Result<S3Response<T>>;

/// The least length of parts but the last.
const LEAST_PART: u64 = 5 << 20;
/// How long a signature may be valid, in seconds.
const LONGEST_VALIDITY: u64 = 7 * 24 * 3600;

/// `s3s-fs`, with these deviations from S3 corrected:
///
/// * GET and HEAD ignore If-Match.
/// * An object's content and its ETag are not replaced at the same time.
/// * An upload that does not exist is refused with `AccessDenied` in place of `NoSuchUpload`.
/// * A completion does not check the ETags of parts. One with a wrong part is refused, but ends the upload.
/// * PUT makes a bucket that does not exist, and a GET from there is refused with `NoSuchKey`.
/// * Lists say that they have escaped their keys, as it was asked for, and have not.
#[derive(Debug)]
pub(super) struct Storage {
    files: FileSystem,
    folder: PathBuf,
    uploads: Arc<Uploads>,
    /// Held exclusively while an object is replaced.
    objects: RwLock<()>,
}

/// The open multipart uploads by their ids, each with its parts. `s3s-fs` cannot list them.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<BTreeMap<String, BTreeMap<i32, Part>>>);

#[derive(Debug)]
struct Part {
    etag: String,
    bytes: u64,
}

impl Uploads {
    pub(super) fn open(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn check(&self, id: &str) -> S3Result<()> {
        if self.0.lock().unwrap().contains_key(id) { Ok(()) } else { Err(s3_error!(NoSuchUpload)) }
    }

    /// Checks that an upload can be completed with these parts.
    fn check_parts(&self, input: &CompleteMultipartUploadInput) -> S3Result<()> {
        let all = self.0.lock().unwrap();
        let there = all.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let wanted = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref());
        let wanted = wanted.unwrap_or_default();
        for (part, number) in wanted.iter().zip(1..) {
            if part.part_number != Some(number) {
                return Err(s3_error!(InvalidPartOrder));
            }
            let there = there.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().is_none_or(|etag| etag.value() != there.etag) {
                return Err(s3_error!(InvalidPart));
            }
            if there.bytes < LEAST_PART && usize::try_from(number) != Ok(wanted.len()) {
                return Err(s3_error!(EntityTooSmall));
            }
        }
        Ok(())
    }
}

impl Storage {
    pub(super) fn new(folder: &Path, uploads: Arc<Uploads>) -> Self {
        let files = FileSystem::new(folder).unwrap();
        Self { files, folder: folder.to_owned(), uploads, objects: RwLock::default() }
    }

    fn check_bucket(&self, name: &str) -> S3Result<()> {
        if self.folder.join(name).is_dir() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    /// Checks If-Match, before anything else of the object.
    async fn check_etag<T>(
        &self,
        request: S3Request<T>,
        head: impl FnOnce(T) -> (Option<ETagCondition>, HeadObjectInput),
    ) -> S3Result<()> {
        let mut wanted = None;
        let request = request.map_input(|input| {
            let (condition, input) = head(input);
            wanted = condition;
            input
        });
        let Some(ETagCondition::ETag(wanted)) = wanted else { return Ok(()) };
        let etag = self.files.head_object(request).await?.output.e_tag;
        if etag.is_some_and(|etag| etag.strong_cmp(&wanted)) {
            Ok(())
        } else {
            Err(s3_error!(PreconditionFailed))
        }
    }
}

#[async_trait]
impl S3 for Storage {
    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        self.files.create_bucket(request).await
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.files.head_bucket(request).await
    }

    async fn list_objects_v2(
        &self,
        mut request: S3Request<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        request.input.encoding_type = None;
        self.files.list_objects_v2(request).await
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        self.check_bucket(&request.input.bucket)?;
        let _unchanged = self.objects.read().await;
        let head = |input: GetObjectInput| {
            let head = HeadObjectInput { bucket: input.bucket, key: input.key, ..HeadObjectInput::default() };
            (input.if_match, head)
        };
        self.check_etag(request.clone(), head).await?;
        self.files.get_object(request).await
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let _unchanged = self.objects.read().await;
        self.check_etag(request.clone(), |input| (input.if_match.clone(), input)).await?;
        self.files.head_object(request).await
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        self.check_bucket(&request.input.bucket)?;
        let _changing = self.objects.write().await;
        self.files.put_object(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        self.check_bucket(&request.input.bucket)?;
        let answer = self.files.create_multipart_upload(request).await?;
        let id = answer.output.upload_id.clone().unwrap();
        self.uploads.0.lock().unwrap().insert(id, BTreeMap::new());
        Ok(answer)
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let UploadPartInput { upload_id: id, part_number: number, content_length, .. } = &request.input;
        self.uploads.check(id)?;
        let (id, number) = (id.clone(), *number);
        let bytes = content_length.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
        let answer = self.files.upload_part(request).await?;
        let etag = answer.output.e_tag.clone().unwrap().into_value();
        // It may have been completed or aborted meanwhile.
        if let Some(parts) = self.uploads.0.lock().unwrap().get_mut(&id) {
            parts.insert(number, Part { etag, bytes });
        }
        Ok(answer)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let _changing = self.objects.write().await;
        self.uploads.check_parts(&request.input)?;
        let id = request.input.upload_id.clone();
        let answer = self.files.complete_multipart_upload(request).await?;
        self.uploads.0.lock().unwrap().remove(&id);
        Ok(answer)
    }

    /// Knows only whether the upload is open.
    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        self.uploads.check(&request.input.upload_id)?;
        self.files.list_parts(request).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        self.uploads.check(&request.input.upload_id)?;
        let id = request.input.upload_id.clone();
        let answer = self.files.abort_multipart_upload(request).await?;
        self.uploads.0.lock().unwrap().remove(&id);
        Ok(answer)
    }
}

/// The access key that exists, and its secret. (For another one, the keys of `s3s` answer `NotSignedUp`.)
pub(super) struct Keys {
    pub(super) access: String,
    pub(super) secret: SecretKey,
}

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access: &str) -> S3Result<SecretKey> {
        if access == self.access { Ok(self.secret.clone()) } else { Err(s3_error!(InvalidAccessKeyId)) }
    }
}

/// Refuses requests with a right signature that S3 refuses, and `s3s` does not:
///
/// * URLs that are valid for more than a week,
/// * requests with `x-amz-` headers that the URL does not sign,
/// * PUTs without a length (chunked ones).
pub(super) struct Access;

#[async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied));
        }
        let is_too_long = |seconds: u64| seconds > LONGEST_VALIDITY;
        let query = url::form_urlencoded::parse(context.uri().query().unwrap_or_default().as_bytes());
        let query: BTreeMap<_, _> = query.collect();
        if query.get("X-Amz-Expires").is_some_and(|seconds| seconds.parse().is_ok_and(is_too_long)) {
            let message = "X-Amz-Expires must be less than a week (in seconds)";
            return Err(s3_error!(AuthorizationQueryParametersError, "{message}"));
        }
        if let Some(signed) = query.get("X-Amz-SignedHeaders") {
            let is_signed = |name: &str| signed.split(';').any(|signed| signed == name);
            let mut names = context.headers().keys().map(hyper::header::HeaderName::as_str);
            if names.any(|name| name.starts_with("x-amz-") && !is_signed(name)) {
                let message = "There were headers present in the request which were not signed";
                return Err(s3_error!(AccessDenied, "{message}"));
            }
        }
        if context.method() == Method::PUT && !context.headers().contains_key(CONTENT_LENGTH) {
            return Err(s3_error!(MissingContentLength));
        }
        Ok(())
    }
}
