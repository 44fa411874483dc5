"""Data sets of event recordings, sounds or picture files: where each comes from, its classes and its splits."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from .. import finders
from ..audio import Cochlea
from ..downloads import Download
from ..file_set import FileSet
from ..items import read_item


def _figshare(names_numbers_sums: Iterable[tuple[str, int, str]], base: str) -> tuple[Download, ...]:
    return tuple(Download(f"{name}.zip", (f"{base}/{number}",), md5=md5) for name, number, md5 in names_numbers_sums)


_ES_SUMS = (
    "900bdd57b5641f7d81cd4620283fef76",
    "5982532009e863a8f4e18e793314c54b",
    "8f408c1f5a1d4604e48d0d062a8289a0",
    "5c5b5cf0a55954eb639964e3da510097",
    "51feb661b4c9fa87860b63e76b914673",
    "fcd007a2b17b7c13f338734c53f6db31",
    "d3e74b96d9c5df15714bbc3abcd329fc",
    "65b9cf7fa63e18d2e7d92ff45a42a5e5",
    "241c9a37a83ff9efd305fe46d012211e",
    "ceee96971008e30d0cdc34086c49fd75",
    "4fbfefbe6e48758fbb72427c81f119cf",
    "c8cc163be4e5f6451201dccbded4ec24",
    "08c9dff32f6b42c49ef7cd78e37c728e",
    "43aa157dc5bd5fcea81315a46e0322cf",
    "480a69b050f465ef01efcc44ae29f7df",
    "11abd24d92b93e7f85acd63abd4a18ab",
    "3891486a6862c63a325c5f16cd01fdd1",
    "cf8bb0525b514f411bca9d7c2d681f7c",
    "3766bc35572ccacc03f0f293c571d0ae",
    "bf73a5e338644122220e41da7b5630e6",
    "564de4a2609cbb0bb67ffa1bc51f2487",
    "60a9e52db1acadfccc9a9809073f0b04",
    "373b5484826d40d7ec35f0e1605cb6ea",
    "a50612e889b20f99cc7b2725dfd72e9e",
    "0802ccdeb0cff29237faf55164524101",
)

FILE_SETS = {
    d.name: d
    for d in (
        FileSet(
            name="n-mnist",
            title="N-MNIST: MNIST's digits seen by a moving ATIS",
            sample="[T, 2, 34, 34]",
            size=(34, 34),
            counts={"train": 60_000, "test": 10_000},
            marks=("Train/[0-9]/*.bin", "Test/[0-9]/*.bin"),
            index=functools.partial(finders.class_folders, below="{Split}", pattern="*.bin", classes=finders.DIGITS),
            source="Orchard et al., 2015, doi:10.3389/fnins.2015.00437; https://www.garrickorchard.com/datasets/n-mnist",
            read=functools.partial(read_item, size=(34, 34), format="atis"),
            downloads=(
                Download(
                    "Train.zip",
                    (
                        "https://data.mendeley.com/public-files/datasets/468j46mzdv/files/"
                        "39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded",
                    ),
                    md5="20959b8e626244a1b502305a9e6e2031",
                ),
                Download(
                    "Test.zip",
                    (
                        "https://data.mendeley.com/public-files/datasets/468j46mzdv/files/"
                        "05a4d654-7e03-4c15-bdfa-9bb2bcbea494/file_downloaded",
                    ),
                    md5="69ca8762b2fe404d9b9bad1103e97832",
                ),
            ),
            folders=("nmnist", "NMNIST", "events/nmnist"),
        ),
        FileSet(
            name="n-caltech101",
            title="N-Caltech101: Caltech101's pictures seen by a moving ATIS",
            sample="[T, 2, 180, 240]",
            size=(180, 240),
            counts={"all": 8_709},
            marks=("Caltech101/*/*.bin",),
            index=functools.partial(finders.class_folders, below="Caltech101", pattern="*.bin"),
            source="Orchard et al., 2015; https://www.garrickorchard.com/datasets/n-caltech101",
            read=functools.partial(read_item, size=(180, 240), format="atis"),
            downloads=(
                Download(
                    "N-Caltech101-archive.zip",
                    (
                        "https://data.mendeley.com/public-files/datasets/cy6cvx3ryv/files/"
                        "36b5c52a-b49d-4853-addb-a836a8883e49/file_downloaded",
                    ),
                    md5="66201824eabb0239c7ab992480b50ba3",
                ),
            ),
            folders=("NCaltech101",),
            held_out=0.1,
            rule="a tenth held out, stratified, by seed",
        ),
        FileSet(
            name="cifar10-dvs",
            title="CIFAR10-DVS: CIFAR-10's pictures moved before a DVS128",
            sample="[T, 2, 128, 128]",
            size=(128, 128),
            counts={"train": 9_000, "test": 1_000},
            marks=("airplane/*.aedat", "truck/*.aedat"),
            index=finders.cifar10_dvs,
            source="Li et al., 2017, doi:10.3389/fnins.2017.00309",
            read=finders.mirrored,
            fixed="upright",
            downloads=_figshare(
                (
                    ("airplane", 7712788, "0afd5c4bf9ae06af762a77b180354fdd"),
                    ("automobile", 7712791, "8438dfeba3bc970c94962d995b1b9bdd"),
                    ("bird", 7712794, "a9c207c91c55b9dc2002dc21c684d785"),
                    ("cat", 7712812, "52c63c677c2b15fa5146a8daf4d56687"),
                    ("deer", 7712815, "b6bf21f6c04d21ba4e23fc3e36c8a4a3"),
                    ("dog", 7712818, "f379ebdf6703d16e0a690782e62639c3"),
                    ("frog", 7712842, "cad6ed91214b1c7388a5f6ee56d08803"),
                    ("horse", 7712851, "e7cbbf77bec584ffbf913f00e682782a"),
                    ("ship", 7712836, "41c7bd7d6b251be82557c6cce9a7d5c9"),
                    ("truck", 7712839, "89f3922fd147d9aeff89e76a2b0b70a7"),
                ),
                "https://ndownloader.figshare.com/files",
            ),
            folders=("CIFAR10DVS",),
            rule="the first 100 of each class are for testing (TEBN)",
        ),
        FileSet(
            name="dvs128-gesture",
            title="DVS128 Gesture: eleven gestures of 29 people",
            sample="[T, 2, 128, 128]",
            size=(128, 128),
            counts={"train": 1_176, "test": 288},
            marks=("**/trials_to_train.txt", "**/*.aedat"),
            index=finders.gesture,
            source="Amir et al., 2017, CVPR; https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8/folder/50167556794",
            downloads=(Download("DvsGesture.tar.gz", md5="8a5c71fb11e24e5ca5b11866ca6c00a1"),),
            folders=("DVS128Gesture", "DvsGesture"),
            licence="IBM's page gives it to a browser only (CC BY 4.0)",
        ),
        FileSet(
            name="asl-dvs",
            title="ASL-DVS: 24 letters of the American sign language",
            sample="[T, 2, 180, 240]",
            size=(180, 240),
            counts={"all": 100_800},
            marks=("a/*.mat", "y/*.mat"),
            index=functools.partial(finders.class_folders, below=".", pattern="*.mat", classes=finders.LETTERS),
            source="Bi et al., 2019, ICCV; https://github.com/PIX2NVS/NVS2Graph",
            read=functools.partial(finders.turned, size=(180, 240)),
            fixed="upright",
            downloads=(Download("ICCV2019_DVS_dataset.zip"),),
            folders=("ASLDVS",),
            licence="its Dropbox link has expired; the OpenI mirror (OpenI/ASLDVS) needs an account",
            held_out=0.2,
            rule="a fifth held out, stratified, by seed",
        ),
        FileSet(
            name="es-imagenet",
            title="ES-ImageNet: ImageNet as events, made by moving pictures",
            sample="[T, 2, 256, 256]",
            size=(256, 256),
            counts={"train": None, "test": None},
            marks=("**/train/class0/*.npz", "**/vallabel.txt"),
            index=finders.es_imagenet,
            source="Lin et al., 2021, doi:10.3389/fnins.2021.726582; https://cloud.tsinghua.edu.cn/d/94873ab4ec2a4eb497b3",
            read=functools.partial(read_item, size=(256, 256)),
            downloads=tuple(
                Download(
                    f"ES-imagenet-0.18.part{k:02}.rar",
                    (
                        "https://cloud.tsinghua.edu.cn/d/94873ab4ec2a4eb497b3/files/"
                        f"?p=%2FES-imagenet-0.18.part{k:02}.rar&dl=1",
                    ),
                    md5=md5,
                )
                for k, md5 in enumerate(_ES_SUMS, 1)
            ),
            folders=("ESImageNet",),
        ),
        FileSet(
            name="hardvs",
            title="HARDVS: 300 activities",
            sample="[T, 2, 260, 346]",
            size=(260, 346),
            counts={"train": None, "validation": None, "test": None},
            marks=("train_label.txt", "test_label.txt", "action_*/*.npz"),
            index=finders.hardvs,
            source="Wang et al., 2024, AAAI; https://github.com/Event-AHU/HARDVS",
            read=functools.partial(read_item, size=(260, 346)),
            downloads=(
                Download("MINI_HARDVS_files.zip", md5="9c4cc0d9ba043faa17f6f1a9e9aff982"),
                Download("train_label.txt", md5="0d642b6e6871034f151b2649a89d8d3c"),
                Download("val_label.txt", md5="cd2cebcba80e4552102bbacf2b5df812"),
                Download("test_label.txt", md5="5b664af5843f9b476a9c22626f7f5a59"),
            ),
            folders=("HARDVS",),
            licence="its authors give it through Baidu and Dropbox pages",
        ),
        FileSet(
            name="bullying10k",
            title="Bullying10K: ten kinds of actions between people",
            sample="[T, 2, 260, 346]",
            size=(260, 346),
            counts={"train": None, "test": None},
            marks=("handshake/**/*.npy", "kicking/**/*.npy"),
            index=finders.bullying,
            source="Dong et al., 2023, NeurIPS; https://github.com/Brain-Cog-Lab/Bullying10K",
            read=functools.partial(read_item, size=(260, 346)),
            downloads=_figshare(
                (
                    ("handshake", 41268834, "681d70f499e736a1e805305284ddc425"),
                    ("slapping", 41247021, "84b41d6805958f9f62f425223916ffc2"),
                    ("punching", 41263314, "40954f480ab210099d448b7b88fc4719"),
                    ("walking", 41247024, "56e4cac9c0814ce701c3b2292c15b6a9"),
                    ("fingerguess", 41253057, "f83114e5b4f0ea57cac86fb080c7e4d7"),
                    ("strangling", 41261904, "8185ecd6f3147e9b609d22f06270aa86"),
                    ("greeting", 41268792, "4a763fad728b04c8356db8544f1121fe"),
                    ("pushing", 41268951, "7986c74ade7149a98672120a89b13ba8"),
                    ("hairgrabs", 41277855, "a9cf690ed0a3305da4a4b8e110f64db1"),
                    ("kicking", 41278008, "6c3218f977de4ac29c84a10b17779c33"),
                ),
                "https://figshare.com/ndownloader/files",
            ),
            folders=("Bullying10K",),
            rule="every fifth file, in the order of names, is for testing",
        ),
        FileSet(
            name="dvs-lip",
            title="DVS-Lip: a hundred words from the lips",
            sample="[T, 2, 128, 128]",
            size=(128, 128),
            counts={"train": None, "test": None},
            marks=("DVS-Lip/train/*/*.npy", "DVS-Lip/test/*/*.npy"),
            index=functools.partial(finders.class_folders, below="DVS-Lip/{split}", pattern="*.npy"),
            source="Tan et al., 2022, CVPR; https://sites.google.com/view/event-based-lipreading",
            read=functools.partial(read_item, size=(128, 128)),
            downloads=(Download("DVS-Lip.zip", md5="2dcb959255122d4cdeb6094ca282494b"),),
            folders=("DVSLip",),
            licence="Google Drive gives it to a browser only",
        ),
        *(
            FileSet(
                name=f"nav-gesture-{kind}",
                title=f"NavGesture, {kind}ting: six gestures before a telephone"
                if kind == "sit"
                else "NavGesture, walking: six gestures before a telephone",
                sample="[T, 2, 240, 304]",
                size=(240, 304),
                counts={"all": None},
                marks=("*/*_td.dat",),
                index=finders.nav,
                source="Maro et al., 2020, doi:10.3389/fnins.2020.00275",
                read=finders.nav_dat,
                fixed="upright",
                downloads=(Download(f"navgesture-{kind}.zip", md5=md5),),
                folders=(f"NAVGesture{kind.capitalize()}",),
                licence="the domain of its page has expired",
                held_out=0.2,
                rule="a fifth held out, stratified, by seed",
            )
            for kind, md5 in (("walk", "5d305266f13005401959e819abe206f0"), ("sit", "1571753ace4d9e0946e6503313712c22"))
        ),
        FileSet(
            name="shd",
            title="Spiking Heidelberg Digits: spoken digits in English and German",
            sample="[T, 700]",
            size=(700,),
            counts={"train": 8_156, "test": 2_264},
            marks=("shd_train.h5", "shd_test.h5"),
            index=functools.partial(finders.heidelberg, name="shd", classes=20),
            source="Cramer et al., 2020, doi:10.1109/TNNLS.2020.3044364; CC BY 4.0",
            downloads=tuple(
                Download(f"shd_{split}.h5.zip", (f"https://zenkelab.org/datasets/shd_{split}.h5.zip",), md5=md5)
                for split, md5 in (
                    ("train", "f3252aeb598ac776c1b526422d90eecb"),
                    ("test", "1503a5064faa34311c398fb0a1ed0a6f"),
                )
            ),
            folders=("SHD",),
        ),
        FileSet(
            name="ssc",
            title="Spiking Speech Commands: 35 spoken words",
            sample="[T, 700]",
            size=(700,),
            counts={"train": 75_466, "validation": 9_981, "test": 20_382},
            marks=("ssc_train.h5", "ssc_valid.h5", "ssc_test.h5"),
            index=functools.partial(finders.heidelberg, name="ssc", classes=35),
            source="Cramer et al., 2020, doi:10.1109/TNNLS.2020.3044364; CC BY 4.0",
            downloads=tuple(
                Download(f"ssc_{split}.h5.zip", (f"https://zenkelab.org/datasets/ssc_{split}.h5.zip",), md5=md5)
                for split, md5 in (
                    ("train", "d102be95e7144fcc0553d1f45ba94170"),
                    ("valid", "b4eee3516a4a90dd0c71a6ac23a8ae43"),
                    ("test", "a35ff1e9cffdd02a20eb850c17c37748"),
                )
            ),
            folders=("SSC",),
        ),
        FileSet(
            name="speech-commands",
            title="Speech Commands 0.02: 35 spoken words, at 16 kHz",
            sample="[T, 64]",
            size=(64,),
            counts={"train": 84_843, "validation": 9_981, "test": 11_005},
            marks=("validation_list.txt", "testing_list.txt", "*/*.wav"),
            index=finders.speech_commands,
            source="Warden, 2018, arXiv:1804.03209; CC BY 4.0",
            read=functools.partial(finders.sound, rate=16_000),
            cochlea=Cochlea(rate=16_000),
            downloads=(
                Download(
                    "speech_commands_v0.02.tar.gz",
                    ("https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",),
                    md5="6b74f3901214cb2c2934e98196829835",
                ),
            ),
            folders=("SpeechCommands/speech_commands_v0.02", "speech_commands_v0.02"),
        ),
        FileSet(
            name="fsdd",
            title="Free Spoken Digit Dataset: ten digits of six speakers, at 8 kHz",
            sample="[T, 64]",
            size=(64,),
            counts={"train": 2_700, "test": 300},
            marks=("recordings/*_*_*.wav",),
            index=finders.fsdd,
            source="Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset; CC BY-SA 4.0",
            read=functools.partial(finders.sound, rate=8_000),
            cochlea=Cochlea(rate=8_000),
            downloads=(Download("recordings.tar.gz"),),
            folders=("free-spoken-digit-dataset",),
            licence="the recordings are published in that repository alone: clone it into the folder above, with git "
            "clone https://github.com/Jakobovski/free-spoken-digit-dataset; in place of the clone, an archive of its "
            "folder of recordings will do, made there by: tar czf recordings.tar.gz recordings",
            rule="numbers 0 to 4 of each digit and speaker are for testing (its README)",
        ),
        FileSet(
            name="n-cars",
            title="N-CARS: cars or not, cut from an ATIS in traffic",
            sample="[T, 2, 100, 120]",
            size=(100, 120),
            counts={"train": 15_422, "test": 8_607},
            marks=("*train/cars/*.dat", "*test/background/*.dat"),
            index=finders.ncars,
            source="Sironi et al., 2018, CVPR; https://www.prophesee.ai/dataset-n-cars-download",
            read=functools.partial(read_item, size=(100, 120)),
            downloads=(Download("Prophesee_Dataset_n_cars.zip"),),
            folders=("NCARS",),
            licence="Prophesee gives it to those who agree to its terms",
        ),
        FileSet(
            name="st-mnist",
            title="ST-MNIST: digits written on a tactile sensor",
            sample="[T, 2, 10, 10]",
            size=(10, 10),
            counts={"all": None},
            marks=("data_submission/[0-9]/*.mat",),
            index=functools.partial(
                finders.class_folders, below="data_submission", pattern="*.mat", classes=finders.DIGITS
            ),
            source="See et al., 2020, arXiv:2005.04319",
            downloads=(Download("STMNIST.zip"),),
            folders=("STMNIST",),
            licence="the National University of Singapore gives it to a browser only",
            held_out=0.2,
            rule="a fifth held out, stratified, by seed",
        ),
        FileSet(
            name="imagenet",
            title="ImageNet (ILSVRC 2012): photographs of 1000 kinds, in a folder for each",
            sample="[3, 224, 224]",
            size=(),
            counts={"train": 1_281_167, "test": 50_000},
            marks=("train/*/*", "val/*/*"),
            index=finders.imagenet_folders,
            source="Russakovsky et al., 2015, arXiv:1409.0575; https://image-net.org",
            read=finders.picture,
            folders=("ImageNet", "ILSVRC2012"),
            licence="ImageNet gives it to those who register",
            transform=(functools.partial(finders.imagenet, True), functools.partial(finders.imagenet, False)),
        ),
    )
}
