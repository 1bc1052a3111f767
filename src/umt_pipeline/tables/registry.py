"""The readers by name. Published counts stand here if they are certain; others are left out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables import ava, captions, kinetics, questions, retrieval, something_something, split_lists, umt_style
from umt_pipeline.tables.reader import Reader, Role


def find_reader(name: str) -> Reader:
    """Return a reader.

    Raises:
        TableError: there is none of this name.
    """
    if name not in READERS:
        raise TableError(f"Expected the name of a reader, found '{name}'. There are: {', '.join(READERS)}.")
    return READERS[name]


def _splits(train: str, validation: str = "", test: str = "", *, pattern: str, more: str = "") -> tuple[Role, ...]:
    """Return the roles of the splits that have a word for the pattern of their files' names."""
    words = {"train": train, "validation": validation, "test": test}
    return tuple(Role(split + more, (pattern.format(word),)) for split, word in words.items() if word)


_LABEL_MAP = Role("labels", ("*label*.txt", "*label*.csv", "*label*.json", "*classes*.txt"))
_ANSWERS = Role("answers", ("*answer_list*.json", "*ans2label*.json", "answer_set.txt"))
_CSV = _splits("train", "val", "test", pattern="*{}*.csv")
_JSON = _splits("train", "val", "test", pattern="*{}*.json")
# Not *train*: lists of answers are called train_ans2label.json.
_QA_JSON = _splits("train", "val", "test", pattern="*_qa_{}*.json")
_UMT_JSON = tuple(Role(role.name, (*role.patterns, role.patterns[0].replace(".json", "*.db"))) for role in _JSON)
_MSRVTT_9K = {"train/videos": (9_000,), "train/captions": (180_000,), "test/videos": (1_000,), "test/captions": (1_000,)}
# 20 captions per video; 1k-A has one. Training on 9k or 7k, or the splits of the JSON files themselves.
_MSRVTT = {
    "train/videos": (9_000, 7_010, 6_513),
    "train/captions": (180_000, 140_200, 130_260),
    "validation/videos": (497,),
    "test/videos": (1_000, 2_990),
    "test/captions": (1_000, 59_800),
}
_MSVD = {
    "train/videos": (1_200,),
    "train/captions": (48_774,),
    "validation/videos": (100,),
    "validation/captions": (4_290,),
    "test/videos": (670,),
    "test/captions": (27_763,),
}
_ACTIVITYNET = {"train/videos": (10_009,), "validation/videos": (4_917,)}
_LSMDC = {"test/videos": (1_000,), "test/captions": (1_000,)}
_MSRVTT_QA = {"train/questions": (158_581,), "validation/questions": (12_278,), "test/questions": (72_821,)}
_MSVD_QA = {"train/questions": (30_933,), "validation/questions": (6_415,), "test/questions": (13_157,)}
_ACTIVITYNET_QA = {"train/questions": (32_000,), "validation/questions": (18_000,), "test/questions": (8_000,)}


def _kinetics(classes: int) -> Reader:
    return Reader(
        f"kinetics{classes}",
        f"Kinetics-{classes}: official CSV, or lists of path and label number",
        partial(kinetics.read_kinetics, task=f"kinetics{classes}", classes=classes),
        (*_CSV, _LABEL_MAP),
        ("videos", "labels"),
        known={f"classes/kinetics{classes}": (classes,)},
    )


def _umt(name: str, what: str, *, paragraph: bool = False, known: Mapping[str, tuple[int, ...]] | None = None) -> Reader:
    return Reader(
        name,
        what,
        partial(umt_style.read_captions, paragraph=paragraph),
        _UMT_JSON,
        ("videos", "captions"),
        known=known or {},
    )


def _umt_questions(name: str, what: str, known: Mapping[str, tuple[int, ...]]) -> Reader:
    return Reader(name, what, umt_style.read_open_questions, (*_QA_JSON, _ANSWERS), ("videos", "questions"), known=known)


_READERS = [
    *(_kinetics(classes) for classes in (400, 600, 700, 710)),
    Reader(
        "video-list",
        "lists of path and label number, as UMT and VideoMAE train on",
        partial(kinetics.read_kinetics, task="label", classes=None),
        (*_CSV, _LABEL_MAP),
        ("videos", "labels"),
    ),
    Reader(
        "ssv2",
        "Something-Something V2: official JSON",
        something_something.read_ssv2,
        (*_JSON, Role("labels", ("*labels.json",))),
        ("videos", "captions", "labels"),
        suffix=".webm",
        known={"train/videos": (168_913,), "validation/videos": (24_777,), "test/videos": (27_157,), "classes/ssv2": (174,)},
    ),
    Reader(
        "moments",
        "Moments in Time, the first version or the second: CSV",
        split_lists.read_moments,
        (
            Role("train", ("trainingset*.csv",)),
            Role("validation", ("validationset*.csv",)),
            Role("labels", ("moments_categories*.txt",)),
        ),
        ("videos", "labels"),
        known={
            "train/videos": (802_264, 727_305),
            "validation/videos": (33_900, 30_500),
            "classes/moments": (339, 305),
        },
    ),
    Reader(
        "ucf101",
        "UCF101: lists of one of the three splits",
        split_lists.read_ucf101,
        (Role("train", ("trainlist0?.txt",)), Role("test", ("testlist0?.txt",)), Role("labels", ("classind.txt",))),
        ("videos", "labels"),
        known={
            "train/videos": (9_537, 9_586, 9_624),
            "test/videos": (3_783, 3_734, 3_696),
            "classes/ucf101": (101,),
        },
    ),
    Reader(
        "hmdb51",
        "HMDB51: lists of one of the three splits",
        split_lists.read_hmdb51,
        (Role("lists", ("*_test_split?.txt",), required=True, many=True),),
        ("videos", "labels"),
        known={"train/videos": (3_570,), "test/videos": (1_530,), "classes/hmdb51": (51,)},
    ),
    Reader(
        "ava",
        "AVA 2.2: actions, excluded frames, boxes of a person detector",
        ava.read_ava,
        (
            Role("train", ("ava_train_v2.?.csv",)),
            Role("validation", ("ava_val_v2.?.csv",)),
            Role("test", ("ava_test_v2.?.txt",)),
            *_splits("train", "val", "test", pattern="ava_{}_excluded_timestamps*.csv", more="_excluded"),
            Role("train_detections", ("ava_detection_train_*.csv", "ava_train_predicted_boxes*.csv")),
            Role("validation_detections", ("ava_detection_val_*.csv", "ava_val_predicted_boxes*.csv")),
            Role("test_detections", ("ava_detection_test_*.csv", "ava_test_predicted_boxes*.csv")),
            Role("included", ("ava_included_timestamps*.txt",)),
            Role("names", ("ava_file_names_*.txt",), many=True),
            Role("labels", ("ava_action_list*.pbtxt", "ava_action_list*.pbtxt.txt")),
        ),
        ("videos", "boxes"),
        known={"train/videos": (235,), "validation/videos": (64,), "test/videos": (131,)},
    ),
    Reader(
        "webvid",
        "WebVid: CSV",
        captions.read_webvid,
        _splits("train", "val", pattern="results_*_{}*.csv"),
        ("videos", "captions"),
    ),
    Reader(
        "cc3m",
        "CC3M: caption and address with a tab between; images by row, as img2dataset names them",
        partial(captions.read_conceptual, columns=("caption", "url")),
        _splits("train", "validation", pattern="{}*.tsv"),
        ("videos", "captions"),
        suffix=".jpg",
        known={"train/videos": (3_318_333,), "validation/videos": (15_840,)},
    ),
    Reader(
        "cc12m",
        "CC12M: address and caption with a tab between; images by row, as img2dataset names them",
        partial(captions.read_conceptual, columns=("url", "caption")),
        _splits("cc12m", pattern="{}*.tsv"),
        ("videos", "captions"),
        suffix=".jpg",
        known={"train/videos": (12_423_374,)},
    ),
    Reader(
        "sbu",
        "SBU captions: JSON; images by row, as img2dataset names them",
        captions.read_sbu,
        (Role("train", ("sbu*.json",), required=True),),
        ("videos", "captions"),
        suffix=".jpg",
        known={"train/videos": (1_000_000,)},
    ),
    Reader(
        "coco",
        "COCO captions of 2014 or 2017: JSON",
        captions.read_coco,
        _splits("train", "val", pattern="captions_{}*.json"),
        ("videos", "captions"),
        known={
            "train/videos": (82_783, 118_287),
            "validation/videos": (40_504, 5_000),
            "train/captions": (414_113, 591_753),
            "validation/captions": (202_654, 25_014),
        },
    ),
    Reader(
        "karpathy",
        "COCO or Flickr30k in Karpathy's splits: JSON",
        captions.read_karpathy,
        (Role("data", ("dataset_*.json",), required=True),),
        ("videos", "captions"),
        known={
            "train/videos": (113_287, 29_000),
            "validation/videos": (5_000, 1_014),
            "test/videos": (5_000, 1_000),
        },
    ),
    Reader(
        "visual-genome",
        "Visual Genome: region descriptions",
        captions.read_visual_genome,
        (Role("train", ("region_descriptions*.json",), required=True), Role("images", ("image_data*.json",))),
        ("videos", "captions"),
        suffix=".jpg",
        known={"train/videos": (108_077,)},
    ),
    _umt("umt", "UMT or VindLU: JSON or SQLite of video or image and caption; each text of a list is a caption"),
    _umt("umt-paragraph", "the same; the texts of a list make one paragraph", paragraph=True),
    Reader(
        "msrvtt",
        "MSR-VTT: videodatainfo JSON, with the lists of the 9k / 1k-A protocol",
        retrieval.read_msrvtt,
        (
            Role("data", ("*videodatainfo*.json", "msrvtt_data.json"), required=True, many=True),
            Role("train_list", ("msrvtt_train*.csv",)),
            Role("test_list", ("msrvtt_jsfusion_test.csv",)),
        ),
        ("videos", "captions"),
        known=_MSRVTT,
    ),
    Reader(
        "didemo",
        "DiDeMo: JSON of moments; a paragraph per video",
        retrieval.read_didemo,
        _splits("train", "val", "test", pattern="{}_data*.json"),
        ("videos", "captions"),
        known={"train/videos": (8_395,), "validation/videos": (1_065,), "test/videos": (1_004,)},
    ),
    Reader(
        "activitynet",
        "ActivityNet Captions: JSON; a paragraph per video",
        retrieval.read_activitynet,
        (Role("train", ("train.json",)), Role("validation", ("val_1.json",)), Role("test", ())),
        ("videos", "captions"),
        known=_ACTIVITYNET,
    ),
    Reader(
        "lsmdc",
        "LSMDC: cells with tabs between",
        retrieval.read_lsmdc,
        _splits("training", "annos_val", "1000_publictect", pattern="lsmdc16_*{}*.csv"),
        ("videos", "captions"),
        suffix=".avi",
        known=_LSMDC,
    ),
    Reader(
        "msvd",
        "MSVD: AllVideoDescriptions.txt and lists of clips; every sentence is a caption",
        retrieval.read_msvd,
        (
            Role("descriptions", ("allvideodescriptions*.txt",), required=True),
            *_splits("train", "val", "test", pattern="{}_list.txt"),
        ),
        ("videos", "captions"),
        suffix=".avi",
        known=_MSVD,
    ),
    _umt("msrvtt-umt", "MSR-VTT 9k / 1k-A in UMT's JSON", known=_MSRVTT_9K),
    _umt("didemo-umt", "DiDeMo in UMT's JSON; a paragraph per video", paragraph=True),
    _umt("activitynet-umt", "ActivityNet Captions in UMT's JSON; a paragraph per video", paragraph=True, known=_ACTIVITYNET),
    _umt("lsmdc-umt", "LSMDC in UMT's JSON", known=_LSMDC),
    _umt("msvd-umt", "MSVD in UMT's JSON; every sentence is a caption", known=_MSVD),
    _umt("ssv2-label-umt", "SSv2-label in UMT's JSON", known={"train/videos": (168_913,)}),
    _umt("ssv2-template-umt", "SSv2-template in UMT's JSON; several videos per caption", known={"train/videos": (168_913,)}),
    Reader(
        "msrvtt-qa",
        "MSRVTT-QA: JSON",
        partial(questions.read_xu_questions, prefix="video"),
        (*_splits("train", "val", "test", pattern="{}_qa.json"), _ANSWERS),
        ("videos", "questions"),
        known=_MSRVTT_QA,
    ),
    Reader(
        "msvd-qa",
        "MSVD-QA: JSON, with the names of the clips",
        partial(questions.read_xu_questions, prefix="vid"),
        (*_splits("train", "val", "test", pattern="{}_qa.json"), _ANSWERS, Role("mapping", ("youtube_mapping.txt",))),
        ("videos", "questions"),
        suffix=".avi",
        known=_MSVD_QA,
    ),
    Reader(
        "activitynet-qa",
        "ActivityNet-QA: JSON of questions and JSON of answers",
        questions.read_activitynet_questions,
        (
            *_splits("train", "val", "test", pattern="{}_q.json"),
            *_splits("train", "val", "test", pattern="{}_a.json", more="_answers"),
            _ANSWERS,
        ),
        ("videos", "questions"),
        known=_ACTIVITYNET_QA,
    ),
    _umt_questions("msrvtt-qa-umt", "MSRVTT-QA in UMT's JSON", _MSRVTT_QA),
    _umt_questions("msvd-qa-umt", "MSVD-QA in UMT's JSON", _MSVD_QA),
    _umt_questions("activitynet-qa-umt", "ActivityNet-QA in UMT's JSON", _ACTIVITYNET_QA),
    Reader(
        "msrvtt-mc",
        "MSRVTT-MC in UMT's JSON: five captions, one of them right",
        umt_style.read_multiple_choice,
        _JSON,
        ("videos", "questions"),
        known={"test/questions": (2_990,)},
    ),
]

READERS: dict[str, Reader] = {reader.name: reader for reader in _READERS}
