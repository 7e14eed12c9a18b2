"""The routes of jobs: clips that are too long for a request."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request

from roadwork_serve.api.auth import Authenticator, Caller
from roadwork_serve.api.jobs import JobService
from roadwork_serve.api.problem_details import documented
from roadwork_serve.api.request_body import declared_length, read_stream
from roadwork_serve.api.request_parameters import FileName, RequestKey
from roadwork_serve.api.upload import recorded_filename
from roadwork_serve.decimal_text import DecimalInt
from roadwork_serve.errors import (
    BadRequest,
    MediaTooLarge,
    NotFound,
    Overloaded,
    SlowUpload,
    UnsupportedMedia,
)
from roadwork_serve.profiles.jobs import JobSpec
from roadwork_serve.schema import Job, JobPage, JobSummary

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="The `id` of a job.")]
_UNKNOWN = documented(NotFound("there is no job 5f1c9a7e; results are deleted after a time"))
_BAD_ID = documented(BadRequest("job_id is 'x': String should match pattern '^[0-9a-f]{32}$'"))
_CLIP = {
    "requestBody": {
        "required": True,
        "description": "The clip, as it is.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def job_routes(service: JobService, spec: JobSpec, auth: Authenticator) -> APIRouter:
    """Return the routes, which are for clients. A key sees its own jobs, an admin's key all.

    Args:
        service: The jobs.
        spec: Their settings.
        auth: Authenticates callers.
    """
    routes = auth.router("client", "jobs")

    @routes.post(
        "/v1/jobs",
        status_code=202,
        summary="Send a clip that is too long for a request",
        responses=documented(
            BadRequest("the body is empty; send the clip as the body"),
            MediaTooLarge(f"the request is larger than {spec.max_bytes:,} bytes of media; send less"),
            UnsupportedMedia("the bytes are image/jpeg; a job takes a clip, and /v1/classify a photo"),
            SlowUpload("of the body 3 bytes have arrived, at less than 1,024 bytes a second; send less"),
            Overloaded("32 jobs have not ended, 2 of them yours; wait for some of them, or cancel them"),
        ),
        openapi_extra=_CLIP | auth.openapi,
    )
    async def create_job(
        request: Request,
        caller: Annotated[Caller, Depends(auth.client)],
        key: RequestKey = None,
        filename: FileName = None,
    ) -> JobSummary:
        declared = declared_length(request)
        if declared is not None and declared > spec.max_bytes:
            raise MediaTooLarge(f"the request is larger than {spec.max_bytes:,} bytes of media; send less")
        body = read_stream(request, spec.max_bytes)
        return await service.submit(body, declared, caller.name, key, recorded_filename(filename or ""))

    @routes.get(
        "/v1/jobs",
        summary="List the newest jobs",
        responses=documented(BadRequest("limit is '0': Input should be greater than or equal to 1")),
    )
    async def jobs(
        request: Request,
        caller: Annotated[Caller, Depends(auth.client)],
        limit: Annotated[DecimalInt, Query(ge=1, le=200, description="Maximum number of jobs.")] = 20,
    ) -> JobPage:
        if caller.key is None:  # without keys, only the admin token tells whose jobs these are
            caller = await auth.authenticate(request, "admin")
        return await service.list(_only(caller), limit)

    @routes.get(
        "/v1/jobs/{job_id}",
        summary="Show a job: its state, and the result for each part of its clip",
        responses=_UNKNOWN | _BAD_ID,
        openapi_extra=auth.openapi,
    )
    async def job(job_id: JobId, caller: Annotated[Caller, Depends(auth.client)]) -> Job:
        return await service.get(job_id, _only(caller))

    @routes.delete(
        "/v1/jobs/{job_id}",
        summary="Cancel a job; one that has ended stays as it is",
        responses=_UNKNOWN | _BAD_ID,
        openapi_extra=auth.openapi,
    )
    async def cancel_job(job_id: JobId, caller: Annotated[Caller, Depends(auth.client)]) -> JobSummary:
        return await service.cancel(job_id, _only(caller))

    return routes


def _only(caller: Caller) -> str | None:
    """Return the name of the caller whose jobs these may be; None for an admin, who may see all."""
    return None if caller.role == "admin" else caller.name
