"""This module says what happens in a clip: shapes come and go, sounds are heard at certain moments."""

from dataclasses import dataclass


COLOURS = {
    "red": (215, 35, 40),
    "green": (40, 170, 60),
    "blue": (45, 85, 235),
    "yellow": (235, 210, 40),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross", "star")
SOUNDS = ("bell", "whistle", "drum", "buzzer", "chirp", "noise")
SPOKEN = ("one", "two", "three", "four", "five", "six")  # sounds that need a speech synthesizer

# what a voice may say of a shape
STATEMENTS = {f"the {shape} is {colour}": (colour, shape) for shape in SHAPES for colour in COLOURS}

Point = tuple[float, float]  # x and y as fractions of the picture's width and height
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Motion:
    """A motion is a straight line at constant speed, from the first to the last moment of what moves."""

    start: Point
    end: Point

    def at(self, done: float) -> Point:
        """Where it is after a share of its time, from 0 to 1."""
        (x0, y0), (x1, y1) = self.start, self.end
        return x0 + (x1 - x0) * done, y0 + (y1 - y0) * done


@dataclass(frozen=True)
class ShapeEvent:
    """A shape event is a shape that is in the picture from `appear_sec` to before `vanish_sec`."""

    colour: str
    shape: str
    appear_sec: float
    vanish_sec: float
    size: float  # diameter as a fraction of the picture's shorter side
    motion: Motion
    rgb: Colour  # the shade of `colour` that it has

    def __post_init__(self):
        if self.colour not in COLOURS or self.shape not in SHAPES:
            raise ValueError(
                f"Unknown shape {self.name!r}: colours are {', '.join(COLOURS)}; shapes are {', '.join(SHAPES)}."
            )
        if not 0 <= self.appear_sec < self.vanish_sec:
            raise ValueError(f"A {self.name} cannot appear at {self.appear_sec} s and vanish at {self.vanish_sec} s.")

    @property
    def name(self) -> str:
        """What questions call it."""
        return f"{self.colour} {self.shape}"

    @property
    def start_sec(self) -> float:
        """When it begins."""
        return self.appear_sec

    @property
    def end_sec(self) -> float:
        """When it is over."""
        return self.vanish_sec

    def visible_at(self, time_sec: float) -> bool:
        """Tells whether the shape is in the picture at a moment."""
        return self.appear_sec <= time_sec < self.vanish_sec

    def position(self, time_sec: float) -> Point:
        """Where the shape is at a moment."""
        return self.motion.at((time_sec - self.appear_sec) / (self.vanish_sec - self.appear_sec))


@dataclass(frozen=True)
class Distractor:
    """A distractor is a small grey bar that is in the picture all the time and never asked about."""

    size: Point  # width and height as fractions of the picture's
    grey: int
    motion: Motion


@dataclass(frozen=True)
class VisionTrack:
    """A vision track is a picture in which shapes come and go."""

    duration_sec: float
    fps: float
    width: int
    height: int
    background: tuple[Colour, Colour]  # top and bottom
    events: tuple[ShapeEvent, ...]  # by the time they appear
    distractors: tuple[Distractor, ...] = ()
    noise: float = 0.0  # deviation in levels of 255
    seed: int = 0  # of the noise
    place: int | None = None  # whose tint the background has

    def __post_init__(self):
        if not 0 < self.fps <= 240 or self.width < 16 or self.height < 16 or self.width % 2 or self.height % 2:
            raise ValueError(
                f"A picture needs an even width and height of at least 16 and a frame rate in (0, 240], got "
                f"{self.width}x{self.height} at {self.fps}."
            )
        _check_events(self)


@dataclass(frozen=True)
class SoundEvent:
    """A sound event is a sound of some kind that begins at a moment."""

    kind: str
    onset_sec: float
    length_sec: float
    level: float = 0.5  # its highest sample
    pitch: float = 0.5  # 0 to 1, within the range of its kind
    seed: int = 0  # of the noise in it

    def __post_init__(self):
        if self.kind not in (*SOUNDS, *SPOKEN, *STATEMENTS):
            raise ValueError(
                f"Unknown sound {self.kind!r}: known are {', '.join((*SOUNDS, *SPOKEN))}, and statements such as "
                f"{next(iter(STATEMENTS))!r}."
            )
        if not (self.onset_sec >= 0 and self.length_sec > 0 and 0 < self.level <= 1 and 0 <= self.pitch <= 1):
            raise ValueError(
                f"A sound needs an onset >= 0, a length > 0, a level in (0, 1] and a pitch in [0, 1], got {self}."
            )

    @property
    def name(self) -> str:
        """What questions call it."""
        return self.kind

    @property
    def start_sec(self) -> float:
        """When it begins."""
        return self.onset_sec

    @property
    def end_sec(self) -> float:
        """When it is over."""
        return self.onset_sec + self.length_sec


@dataclass(frozen=True)
class SoundTrack:
    """A sound track is what is heard of a clip: sounds over noise and the hum of a place."""

    duration_sec: float
    sampling_rate: int
    events: tuple[SoundEvent, ...]  # by their onset
    channels: int = 1
    noise: float = 0.0  # deviation of the background
    seed: int = 0  # of the background
    place: int | None = None  # whose hum is heard
    hum: float = 0.0  # its highest sample
    statements: tuple[SoundEvent, ...] = ()  # about shapes, which no question is about

    def __post_init__(self):
        if self.channels not in (1, 2) or self.sampling_rate < 8000:
            raise ValueError(
                f"A sound track needs 1 or 2 channels and 8000 Hz or more, got {self.channels} at {self.sampling_rate}."
            )
        _check_events(self)
        if wrong := [one.kind for one in self.statements if one.kind not in STATEMENTS]:
            raise ValueError(f"A statement is one of STATEMENTS, got {wrong[0]!r}.")
        if max((one.end_sec for one in self.statements), default=0.0) > self.duration_sec:
            raise ValueError(f"Statements must be over by the end of the track ({self.duration_sec} s).")


@dataclass(frozen=True)
class Scene:
    """A scene is any vision track with any sound track.

    Where one is over, the empty picture or the background noise goes on.
    """

    vision: VisionTrack
    sound: SoundTrack

    @property
    def duration_sec(self) -> float:
        """Length of the longer track."""
        return max(self.vision.duration_sec, self.sound.duration_sec)


def _check_events(track: VisionTrack | SoundTrack) -> None:
    starts = [event.start_sec for event in track.events]
    last = max((event.end_sec for event in track.events), default=0.0)
    if starts != sorted(starts) or last > track.duration_sec:
        raise ValueError(
            f"Events must be in the order in which they start and be over by the end of the track "
            f"({track.duration_sec} s), got starts {starts} and the last end at {last} s."
        )
