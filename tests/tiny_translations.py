"""A data set of TFDS with translations, laid out as wmt14_translate is, that is made in no time."""

import tensorflow_datasets as tfds

COUNTS = {"train": 12, "test": 3}


def pair(split, i):
    """The two sentences of an example; one side of the fifth is empty."""
    return {"de": "" if i == 4 else f"der {split} Nummer {i} ü", "en": f"the {split} number {i}"}


class TinyTranslations(tfds.core.GeneratorBasedBuilder):
    """Sentences with a number."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.Translation(languages=["de", "en"]),
            supervised_keys=("de", "en"),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in COUNTS.items()}

    def _generate_examples(self, split, count):
        for i in range(count):
            yield i, pair(split, i)
