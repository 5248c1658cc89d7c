"""A gRPC client that knows no Shoal code: all it knows of the API, the server's reflection has told it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import settings

# How long an example takes says what else the machine has to do.
settings.register_profile("shoal", deadline=None)
settings.load_profile("shoal")

SERVICE = "shoal.v1.Shoal"
DETAILS = "grpc-status-details-bin"
TIMEOUT_SECONDS = 20.0


class ReflectedApi:
    """The API at one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self._pool = descriptor_pool.DescriptorPool(self.database)

    @property
    def methods(self) -> dict[str, Any]:
        """The descriptors of the service's methods, by name."""
        return dict(self._pool.FindServiceByName(SERVICE).methods_by_name)

    def message(self, name: str, **fields: Any) -> Any:
        """Make a message of the API."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"shoal.v1.{name}"))(**fields)

    def method(self, name: str) -> Any:
        """Return a method, as grpc's stubs have it: to be called with a message, or with an iterator of them."""
        descriptor = self.methods[name]
        kind = (
            "stream" if descriptor.client_streaming else "unary",
            "stream" if descriptor.server_streaming else "unary",
        )
        answer = message_factory.GetMessageClass(descriptor.output_type)
        return getattr(self.channel, "_".join(kind))(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    def call(self, name: str, **fields: Any) -> Any:
        """Call a method that takes one message, made of `fields`."""
        request = self.message(self.methods[name].input_type.name, **fields)
        return self.method(name)(request, timeout=TIMEOUT_SECONDS)

    def refusal(self, name: str, **fields: Any) -> tuple[grpc.StatusCode, Any]:
        """Call a method that is to fail; return the status and the details."""
        with pytest.raises(grpc.RpcError) as failed:
            answer = self.call(name, **fields)
            if self.methods[name].server_streaming:
                list(answer)
        return failed.value.code(), self.error_of(failed.value)

    def error_of(self, error: Any) -> Any:
        """Return the `shoal.v1.Error` that came with an error."""
        status = self.message("ErrorStatus")
        status.ParseFromString(dict(error.trailing_metadata())[DETAILS])
        assert status.code == error.code().value[0]
        found = self.message("Error")
        (packed,) = status.details
        assert any_pb2.Any.FromString(packed.SerializeToString()).Unpack(found)
        return found

    def health(self, service: str = SERVICE) -> str:
        """Return the status of a service, by name."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_SECONDS)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def wait_until_serving(self) -> None:
        """Wait until the health service says so."""
        watch = health_pb2_grpc.HealthStub(self.channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE), wait_for_ready=True, timeout=TIMEOUT_SECONDS
        )
        assert any(answer.status == health_pb2.HealthCheckResponse.SERVING for answer in watch)
        watch.cancel()


@pytest.fixture
def reflected_api() -> Iterator[Callable[[str], ReflectedApi]]:
    """Return how to connect to an address."""
    made: list[ReflectedApi] = []

    def connect(address: str) -> ReflectedApi:
        made.append(ReflectedApi(address))
        return made[-1]

    yield connect
    for api in made:
        api.channel.close()
