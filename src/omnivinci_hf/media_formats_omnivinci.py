"""The formats that are read."""

# FFmpeg's names of the containers, and what they are. None of them names other files, opens sockets or starts programs,
# as playlists and descriptions do (.m3u8, ffconcat, .sdp, image2, AviSynth). Bare streams of pictures (H.264, HEVC,
# MJPEG) are left out, since they have no times of their own.
CONTAINERS = {
    "mov": "MP4, MOV, M4A, M4B, 3GP and other ISO media files",
    "matroska": "MKV, MKA, WebM",
    "avi": "AVI",
    "mpegts": "transport streams: TS, M2TS",
    "mpeg": "MPEG programme streams: MPG, VOB",
    "flv": "Flash video",
    "asf": "WMV, WMA",
    "mxf": "MXF of cameras and broadcasters",
    "rm": "RealMedia",
    "dv": "DV of camcorders",
    "ivf": "IVF: bare VP8, VP9 and AV1 with times",
    "gif": "animated GIF",
    "ogg": "OGG, OGA, OGV, OPUS, SPX",
    "wav": "WAV, RF64",
    "w64": "Sony Wave64",
    "aiff": "AIFF, AIFC",
    "caf": "Apple's CAF",
    "au": "AU, SND",
    "voc": "Creative Voice",
    "flac": "FLAC",
    "mp3": "MP3, MP2",
    "aac": "AAC with ADTS headers",
    "loas": "AAC with LATM headers",
    "ac3": "AC-3",
    "eac3": "E-AC-3",
    "dts": "DTS",
    "dtshd": "DTS-HD",
    "truehd": "TrueHD",
    "mlp": "MLP",
    "amr": "AMR of phones",
    "wv": "WavPack",
    "tta": "True Audio",
    "ape": "Monkey's Audio",
    "tak": "TAK",
    "mpc": "Musepack 7",
    "mpc8": "Musepack 8",
}
# Their headers have the duration, in place of an estimate from the size of the file.
HAVE_DURATION = ("matroska", "flv", "flac", "au", "rm", "mxf", "wv", "tta", "ape", "tak", "mpc", "mpc8")
# In these it proves nothing: recorders write what a clock says, or the length of the whole of which the file is a part.
MAY_HAVE_WRONG_DURATION = ("matroska", "flv", "flac")
# No format that runs other programs (EPS starts Ghostscript) or that opens other files.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
# Of these, files of several frames are videos, and files of one frame are none.
MOVING_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
STILL_FORMATS = ("JPEG", "BMP", "TIFF", "JPEG2000")
