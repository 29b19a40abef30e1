"""The activity boundary: what goes wrong inside becomes one typed ApplicationError, and nothing oversized leaves."""

from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from domain.errors import GUIDANCE, Category, Failure, TaskError
from store.mirror import TaskGone
from store.run_log import RunGone

# The server refuses more, and would let the activity be retried without end.
RESULT_LIMIT: Final = 2_000_000
# A failure travels through every error of the attempt's end.
MESSAGE_LIMIT: Final = 4_000
UNKNOWN_TRIES: Final = 3

# The database is away or sheds load: connection, resources, shutdown, lock and serialisation failures.
_AWAY: Final = (InterfaceError, OperationalError, PoolTimeout, OSError)
_AWAY_CLASSES: Final = ("08", "40", "53", "55", "57")


class FailureInterceptor(Interceptor):
    """Wraps every activity of a worker."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap one activity."""
        return _Boundary(next)


class _Boundary(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's own name
        try:
            result = await super().execute_activity(input)
        except Failure as failure:
            raise _typed(failure.error) from failure
        except TaskGone as gone:
            raise _typed(_error("task_deleted", Category.CANCELLED, f"Task {gone} was deleted.")) from gone
        except RunGone as gone:
            raise _typed(_error("run_deleted", Category.CANCELLED, f"Run {gone} was deleted.")) from gone
        except DBAPIError as failure:
            raise _typed(_database_error(failure)) from failure
        except (PoolTimeout, OSError) as failure:
            raise _typed(_error("unreachable", Category.INFRASTRUCTURE, str(failure), retryable=True)) from failure
        except ApplicationError:
            raise
        except Exception as unknown:  # noqa: BLE001 - the boundary: nothing leaves untyped
            # A cause travels in full: a failure that no history can hold would lose its words altogether.
            raise _unknown(unknown) from (unknown if len(str(unknown)) <= MESSAGE_LIMIT else None)
        _check_size(result)
        return result


def _error(code: str, category: Category, message: str, *, retryable: bool = False) -> TaskError:
    return TaskError(code=code, category=category, message=message, retryable=retryable, guidance=GUIDANCE[category])


def _database_error(failure: DBAPIError) -> TaskError:
    state = getattr(failure.orig, "sqlstate", None) or ""
    away = failure.connection_invalidated or isinstance(failure, _AWAY) or state[:2] in _AWAY_CLASSES
    message = str(failure.orig).splitlines()[0] if str(failure.orig) else "The database did not answer."
    if away:
        return _error("database_unreachable", Category.INFRASTRUCTURE, message, retryable=True)
    return _error("database_refused", Category.INTERNAL, message)


def _unknown(failure: Exception) -> ApplicationError:
    """Type what nobody has classified: transient within its tries, and the mirror's tries have no end of their own."""
    lasting = activity.info().is_local and activity.info().attempt >= UNKNOWN_TRIES
    message = f"{type(failure).__name__}: {failure}"
    return _typed(_error("unexpected", Category.INTERNAL, message, retryable=not lasting))


def _typed(error: TaskError) -> ApplicationError:
    told = error.model_copy(update={"message": error.message[:MESSAGE_LIMIT]})
    return ApplicationError(
        told.message, told.model_dump(mode="json"), type=told.code, non_retryable=not told.retryable
    )


def _check_size(result: Any) -> None:
    size = len(result.model_dump_json().encode()) if isinstance(result, BaseModel) else 0
    if size > RESULT_LIMIT:
        message = f"The result has {size} bytes; at most {RESULT_LIMIT} fit into a history."
        raise _typed(_error("result_too_large", Category.AGENT, message))
