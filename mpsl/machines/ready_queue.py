"""The work of a compute node that is ready, by rank and then by arrival. Decides what is next; does nothing."""

from dataclasses import dataclass, field

from mpsl.machines.jobs import Job


@dataclass
class ReadyQueue:
    """Work that is ready, and what is being worked on."""

    waiting: list[tuple[int, int, Job]] = field(default_factory=list)
    running: Job | None = None
    count: int = 0

    def add(self, rank: int, job: Job) -> None:
        """Queue a job behind those of its rank."""
        self.waiting.append((rank, self.count, job))
        self.count += 1

    def jobs(self) -> list[Job]:
        """What waits, and what is being worked on."""
        running = [self.running] if self.running is not None else []
        return running + [job for _, _, job in self.waiting]

    def take(self) -> Job | None:
        """The next job, when the worker is free."""
        if self.running is not None or not self.waiting:
            return None
        first = min(self.waiting, key=lambda entry: entry[:2])
        self.waiting.remove(first)
        self.running = first[2]
        return self.running
