"""Any weights as they are, evaluated on your folder: what they are of, they say themselves.

Command:   python -m vit_jax.main --config=configs/evaluate.py:FILE --workdir=W \
               --config.data.source=FOLDER
           FILE is whatever vit_jax.predict takes, such as a classifier that vit_jax.convert has
           made of CLIP by --classes, or a run's folder. FOLDER/CLASS/IMAGE is evaluated whole;
           of FOLDER/{train,val,test}/CLASS/IMAGE val and test are. The classes have to be those
           of the labels.txt beside FILE, in whichever order.
Hardware:  whatever there is
Time:      that of looking at each image once
Score:     that of the weights
"""

from ml_collections import ConfigDict

from configs import common

_UNSAID = "FILE"


def get_config(argument: str = _UNSAID) -> ConfigDict:
    config = common.get_config()
    if argument != _UNSAID:
        from vit_jax import pretrained  # which takes seconds to import

        config = pretrained.config_of(pretrained.load(argument))
    config.pretrained = argument
    config.total_steps = 0
    config.data.val_fraction = 0.0
    return config
