"""Every key of a config, with its default and what it means.

An experiment's file starts from here and says what differs. Each key can be set on the command
line, `--config.optim.learning_rate=3e-4`; under `model` and `optim.args`, keys that are not here
can be added too, and are checked by the model and by optax. The value
None takes a key back to its default here.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of parameters, order, augmentation and dropout

    config.model_name = "ViT-S_16"  # one of vit_jax.models.list_models()
    config.model = ConfigDict()  # fields of its module that differ
    config.dtype = "float32"  # compute type: float32, bfloat16 or float16

    # Weights to begin with: a .npz, .safetensors or .pth file, a run's folder, gs://, https://,
    # hf://OWNER/REPOSITORY, package:NAME, or a name of docs/published.md; or one that is looked up
    # in pretrained_dir, see weights.find.
    config.pretrained = ""
    config.pretrained_dir = ""  # folder or address of published weights
    config.pretrained_key = ""  # which weights of a PyTorch file that holds several
    config.pretrained_labels = ""  # file of the weights' class names in order, or imagenet1k
    config.pretrained_size = ()  # (h, w) of its images, where no run and no square tells
    config.dont_load = ""  # regular expression; parameters that are initialised all the same

    config.plugins = ()  # modules that register models, tasks or kinds of data of your own

    config.data = ConfigDict()  # see docs/data.md
    config.data.source = ""  # a folder, "digits", "tfds:NAME", or of translation "toy:NAME"
    config.data.kind = "classes"  # what a folder holds: classes, pairs, flow, ..., see docs/data.md
    # What is done to each training image, one after the other.
    config.data.train_pp = "decode|inception_crop(224)|flip_lr|value_range(-1, 1)"
    # The same of images to evaluate on, and of a person's.
    config.data.eval_pp = "decode|resize(224)|value_range(-1, 1)"
    config.data.val_pp = ""  # of the validation images, where it is not eval_pp
    config.data.split_seed = 0  # decides which examples are split off; apart from config.seed
    config.data.val_fraction = 0.1  # of each class, or of the scenes; split off without val
    config.data.skip_corrupt = False  # look for unreadable images first, and leave them out
    # Of classes, in training: 0 draws each example once per epoch; 1 draws all classes evenly, and
    # an epoch has as many steps; 0.5 is between, by the square root of their sizes.
    config.data.balance = 0.0
    config.data.cache = False  # keep decoded training images of a folder, as many as fit in memory
    # ReaL's real.json, for ImageNet's validation images, and real_accuracy in metrics; "": none.
    config.data.real = ""
    # Of pairs, degraded, flow, captions and translation: another folder, to test on.
    config.data.test_source = ""
    config.data.pairs = ConfigDict()  # of pairs
    config.data.pairs.pattern = ""  # another layout: "foggy/{scene}_*.png sharp/{scene}.png"
    config.data.haze = ConfigDict()  # of hazy_from_clear
    config.data.haze.beta = (0.6, 1.8)  # lowest and highest, per unit of depth
    config.data.haze.airlight = (0.7, 1.0)  # lowest and highest, 1 is white
    config.data.haze.variation = 0.0  # 0 is homogeneous haze, 1 the most patchy
    config.data.haze.draws = 1  # hazy images per photo to validate and to test on
    config.data.degradation = ConfigDict()  # of degraded, after making photos smaller
    config.data.degradation.sigma = 0.0  # deviation of Gaussian noise, of 255
    config.data.degradation.quality = 0  # of JPEG, 1 to 100; 0 is none
    config.data.degradation.grayscale = False  # whether photos become grey before
    config.data.motion = ConfigDict()  # of flow_from_photos
    config.data.motion.size = (128, 160)  # (h, w) of the frames
    config.data.motion.shift = 10.0  # the most, in pixels
    config.data.motion.rotation = 8.0  # the most, in degrees to either side
    config.data.motion.zoom = 1.1  # the largest factor; its inverse is the smallest
    config.data.motion.warp = 2.0  # the most pixels by which places move besides
    config.data.motion.pieces = (1, 3)  # the fewest and the most before the background
    config.data.motion.draws = 4  # pairs per photo to validate and to test on
    config.data.masks = ConfigDict()  # of segmentation
    config.data.masks.classes = ""  # ade20k, voc, ..., or a file with a name per line; "": found
    config.data.masks.reduce_zero_label = placeholder(bool)  # 0 is ignored, 1 is the first class
    config.data.masks.ignore = ()  # labels in the files that are ignored besides 255
    config.data.flow = ConfigDict()  # of flow
    # What a folder of several sets is trained on: chairs, things, sintel, sintel_things, kitti as
    # published, or such as "100 * sintel_clean + kitti"; "" is all that there is, once.
    config.data.flow.mixture = ""
    config.data.flow.test = ""  # the part of test_source to test on, such as sintel_clean
    config.data.flow.invalid = False  # whether Sintel's masks of invalid pixels are heeded
    config.data.text = ConfigDict()  # of text
    config.data.text.passes = 10  # in which documents are cut into other pairs, to train on
    config.data.translation = ConfigDict()  # of translation
    config.data.translation.source_language = ""  # such as de: of files, columns or features ...
    config.data.translation.target_language = ""  # ... that are named so
    # To how many tokens pairs are padded: each to the first that it fits into, and longer ones are
    # left out. () is up to five, of the data's quantiles, the last no longer than the tokenizer's.
    config.data.translation.buckets = ()
    # Of either side of a batch, padding counted: a batch then has as many times batch_size rows as
    # fit, and at least once. 0 is batch_size rows.
    config.data.translation.batch_tokens = 0
    config.data.translation.examples = 100_000  # of a toy, to train on
    config.data.captions = ConfigDict()  # of captions
    config.data.captions.file = ""  # of several the one in data.source that holds them; "": found
    config.data.captions.images = ""  # the folder in data.source of the images; "": found
    config.data.captions.skip_missing = False  # go on without images that are named and not there
    config.data.tfds = ConfigDict()  # of a source "tfds:NAME"
    config.data.tfds.train_split = "train"  # "" for a split that is not there
    config.data.tfds.val_split = ""  # "" takes val_fraction of the training split
    config.data.tfds.test_split = "test"  # "" for none
    config.data.tfds.data_dir = placeholder(str)  # where data sets lie; unset: TFDS's own folder
    config.data.tfds.manual_dir = placeholder(str)  # with files downloaded by hand
    config.data.tfds.shuffle_buffer = 10_000  # encoded images held in memory

    config.text = ConfigDict()  # of a model that reads texts
    config.text.vocabulary = ""  # file, or folder it is in; "" is an installed package's
    # Weights to begin a tower of texts with, as pretrained, which may then be an image tower's.
    config.text.pretrained = ""

    config.batch_size = 512  # over all devices
    config.accum_steps = 1  # micro-batches per step
    config.total_steps = placeholder(int)  # wins over total_epochs; 0 only evaluates
    config.total_epochs = placeholder(float)  # of the training examples
    # Whether an epoch counts as so many steps as it has whole batches, as with PyTorch's drop_last.
    config.whole_steps = False

    config.loss = "softmax_xent"  # of the task; also a sum such as "l1 + 0.1 * ssim"
    # Of the loss of each example in training, by its class: "balanced", n / (classes * its count),
    # or a number for each class in order, such as "1, 4"; "" is 1 for all.
    config.class_weights = ""
    config.label_smoothing = 0.0  # share of the label that is spread over all classes
    config.mixup_alpha = 0.0  # 0 is off; with both on, each batch takes one of the two
    config.cutmix_alpha = 0.0  # 0 is off
    # What is added to the loss of a model that makes images; the discriminator has the same
    # optimizer and schedule.
    config.gan = ConfigDict()
    config.gan.weight = 0.0  # of the adversarial loss; 0 is off, and there is no discriminator
    config.gan.num_features = 64  # of the discriminator's first stage; the last has 8 times as many
    config.gan.perceptual_weight = 0.0  # of the distance in features of VGG19; 0 is off
    config.gan.vgg19 = ""  # weights of torchvision's VGG19, a .pth or .safetensors file
    # A trained classifier that says besides the labels what should come out.
    config.distill = ConfigDict()
    config.distill.teacher = ""  # as pretrained; "" is none
    config.distill.kind = "hard"  # hard: its likeliest class; soft: all of its probabilities
    config.distill.weight = 0.5  # of the teacher's loss; the labels' has the rest to 1
    config.distill.temperature = 1.0  # of the soft kind

    # How a classifier looks at images to evaluate, and at photos.
    config.classify = ConfigDict()
    config.classify.flip = False  # whether the mirrored image is, too; probabilities are averaged

    # How a model that segments looks at images to evaluate, and at photos.
    config.segment = ConfigDict()
    config.segment.window = 0  # side of the windows in pixels; 0 is the whole image
    config.segment.stride = 0  # pixels from one to the next; 0 is two thirds of the window
    config.segment.scales = ()  # times the image's size, answers are averaged; () is 1 alone
    config.segment.flip = False  # whether the mirrored image is looked at, too
    config.segment.swap = ()  # pairs of labels that change places in it, as of left and right arm

    # How a model of optical flow is trained, and looks at frames to evaluate and at a person's.
    config.flow = ConfigDict()
    config.flow.tile = ()  # (h, w) of tiles whose flows are blended; () is the whole frame
    config.flow.iterations = 0  # of the model, when it does not train; 0 is as many as it has
    config.flow.noise = 0.0  # in training: largest deviation of Gaussian noise, of 255; 0 is off

    # How a model that translates looks for answers, to evaluate and for a person's texts.
    config.translate = ConfigDict()
    # Beginnings that are followed at once; unset: 1, which is greedy, and for a person's texts 4.
    config.translate.beams = placeholder(int)
    config.translate.length_penalty = placeholder(float)  # alpha; unset: 0.6
    # Tokens that an answer may have more than its source; unset: 50.
    config.translate.extra_length = placeholder(int)

    # Labelled images that a model of images and texts is to classify by the names of their classes
    # at each evaluation: a folder, "tfds:NAME" for its test split, or "tfds:NAME:SPLIT".
    config.image_text = ConfigDict()
    config.image_text.zero_shot = ""  # "" is none
    config.image_text.prompts = ""  # imagenet80, imagenet7, or such as "a photo of a {}|a {}"

    config.metrics = ("accuracy",)  # of the task; of images PROTOCOL/FIGURE
    config.benchmark = ""  # SOTS-indoor, RESIDE-6K, Set5-x2, ..., where the test set is that

    config.optim = ConfigDict()  # how parameters change
    config.optim.name = "adamw"  # sgd, adam, adamw, adafactor, lion, rmsprop
    config.optim.learning_rate = 1e-3  # the highest of the schedule
    config.optim.args = ConfigDict()  # of the optax function: momentum, b1, b2, eps, ...
    config.optim.momentum_dtype = "float32"  # or bfloat16: type of the first moment, if any
    config.optim.weight_decay = 0.0  # decoupled: multiplied by the learning rate
    config.optim.coupled_weight_decay = False  # whether it joins the gradient, as in PyTorch's SGD
    config.optim.weight_decay_on = "kernel$"  # regular expression, found in the parameter's path
    config.optim.freeze = ""  # regular expression; parameters that stay as they are
    config.optim.freeze_steps = 0  # for so many steps, after which they are trained; 0 is for good
    # Times this, from the head down, each layer's learning rate; 1 is the same for all. Usual are
    # 0.65 to 0.75 for a ViT that is fine-tuned; see layer_rates.
    config.optim.layer_decay = 1.0
    # Pairs (regular expression, factor): parameters of another rate, such as (("^head/", 10.0),).
    config.optim.multipliers = ()
    config.optim.clip_norm = 0.0  # clips the gradient's global norm; 0 is off
    # Clips the gradient of each output's weights, and of each bias, to this share of their norm (of
    # at least 1e-3); 0 is off. Source: Brock et al., "High-Performance Large-Scale Image
    # Recognition Without Normalization" (ICML 2021).
    config.optim.adaptive_clip = 0.0

    config.schedule = ConfigDict()  # of the learning rate
    # Or constant, linear, poly, rsqrt, noam, multistep, exponential, onecycle; see schedules.
    config.schedule.name = "cosine"
    config.schedule.per_epoch = False  # whether it changes between epochs only
    config.schedule.shift = 0  # steps (with per_epoch, epochs) that it is ahead; -1 is behind
    config.schedule.warmup_steps = 0  # in which the rate rises to its height
    config.schedule.warmup_epochs = 0.0  # read if warmup_steps is 0
    config.schedule.warmup_from = 0.0  # the rate that it rises from
    config.schedule.decay_spans_warmup = False  # whether the decay is counted from the first step
    config.schedule.decay_epochs = 0.0  # after which it ends; 0 is with the run
    config.schedule.restarts = 1  # of cosine: how many times it decays
    config.schedule.final_fraction = 0.0  # of the learning rate, reached (or the floor) at the end
    config.schedule.power = 1.0  # of poly
    config.schedule.timescale = 10_000  # of rsqrt, in steps
    config.schedule.milestones = ()  # of multistep: after these steps the rate is multiplied ...
    config.schedule.gamma = 0.5  # ... by this; of exponential: in each epoch

    config.ema_decay = 0.0  # 0 is off; else the averaged parameters are evaluated and exported
    # Whether the decay at step t is at most (1 + t) / (10 + t), so that a short run's average is
    # not of what it began with; published recipes have a constant one.
    config.ema_warmup = False
    # How many of the last checkpoints are kept besides, and their parameters averaged, to evaluate
    # and export the mean in place of the best; 1 is the last one, and 0 is off.
    config.average_checkpoints = 0
    config.fsdp = 1  # devices over which parameters and optimizer state are spread

    # In steps; unset: once per epoch, but ten times in a run of fewer epochs (less often if there
    # is more to validate than to train on between), and at most 100 times in a longer one.
    config.eval_every = placeholder(int)
    config.checkpoint_every = placeholder(int)  # in steps; besides at every evaluation
    # Services that get the figures besides TensorBoard: wandb, mlflow; each needs its package.
    config.loggers = ()
    config.log_every = 50  # in steps; in a short run more often, for at least 20 lines
    config.keep_checkpoints = 2  # the last ones; the best is kept besides
    config.best_metric = "accuracy"  # of the validation split
    config.best_mode = "max"  # or min: which of it is best
    config.early_stopping = 0  # evaluations without a better one that end the run; 0 is off
    return config
