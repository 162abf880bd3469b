"""The recipes of InstDis, InvaSpread and CMC have the values of their papers and official code."""

from tests import train_steps
from tests.config.papers import IMAGENET, check_values

# What InstDis, InvaSpread and CMC share
SGD = {
    'optimizer.name': 'sgd',
    'optimizer.learning_rate': 0.03,
    'optimizer.learning_rate_batch': 0,  # not scaled
    'optimizer.momentum': 0.9,
    'optimizer.weight_decay': 1e-4,
    'schedule.name': 'step',
    'schedule.factor': 0.1,
    'schedule.milestones': (120, 160),
    'schedule.factors': (),
    'projector.num_layers': 1,
    'projector.output_dim': 128,
    'projector.bias': True,
    'projector.last_batch_norm': False,
    'bn_group_size': 0,
    'augment.crop_scale': (0.2, 1.0),
    'augment.jitter': (0.4, 0.4, 0.4, 0.4),
    'augment.jitter_probability': 1.0,
    'augment.grayscale': 0.2,
}


def test_instdis() -> None:
    """zhirongw/lemniscate.pytorch: the README's commands."""
    expected = {
        **IMAGENET,
        **SGD,
        'batch_size': 256,
        'epochs': 200.0,
        'encoder.name': 'resnet18',
        'encoder.stem': 'imagenet',
        'method.num_negatives': 4096,
        'method.objective': 'nce',
        'method.momentum': 0.5,
        'method.temperature': 0.07,
        'method.proximal': 0.0,
        'augment.grayscale_first': True,
        'augment.blur': (0.0,),
        'augment.solarize': (0.0,),
    }
    check_values(train_steps.load('instdis'), expected)
    check_values(train_steps.load('instdis:r50'), {**expected, 'encoder.name': 'resnet50'})
    later = {'method.objective': 'softmax', 'method.num_negatives': 65536}
    check_values(train_steps.load('instdis:softmax'), {**expected, **later})
    cifar10 = {
        'batch_size': 128,
        'data.image_size': 32,
        'encoder.stem': 'cifar',
        'method.objective': 'softmax',
        'method.num_negatives': 0,  # the softmax over all 50,000
        'method.temperature': 0.1,
        'optimizer.weight_decay': 5e-4,
        'augment.flip': 0.0,
        'augment.grayscale_first': False,
        'augment.mean': (0.4914, 0.4822, 0.4465),
        'augment.std': (0.2023, 0.1994, 0.2010),
        'eval.knn_k': 200,
        'eval.knn_temperature': 0.1,
    }
    check_values(train_steps.load('instdis:cifar10'), {**expected, **cifar10, 'data.name': 'cifar10'})


def test_invaspread() -> None:
    """mangye16/Unsupervised_Embedding_Learning: demo_seen.py."""
    expected = {
        **IMAGENET,
        **SGD,
        'data.name': 'cifar10',
        'data.image_size': 32,
        'batch_size': 128,
        'epochs': 301.0,
        'encoder.name': 'resnet18',
        'encoder.stem': 'cifar',
        'method.temperature': 0.1,
        'optimizer.weight_decay': 5e-4,
        'schedule.milestones': (120, 160, 200),
        'schedule.factors': (0.1, 0.05, 0.01),
        'augment.grayscale_first': False,
        'augment.blur': (0.0, 0.0),
        'augment.solarize': (0.0, 0.0),
        'augment.mean': (0.4914, 0.4822, 0.4465),
        'augment.std': (0.2023, 0.1994, 0.2010),
        'eval.knn_k': 200,
        'eval.knn_temperature': 0.1,
    }
    check_values(train_steps.load('invaspread'), expected)
    check_values(train_steps.load('invaspread:cifar10'), {**expected, 'data.split': 'train'})
    stl10 = {'data.name': 'stl10', 'data.split': 'train+unlabelled', 'data.image_size': 96}
    check_values(train_steps.load('invaspread:stl10'), {**expected, **stl10})


def test_cmc() -> None:
    """HobbitLong/CMC: README and train_CMC.py."""
    expected = {
        **IMAGENET,
        **SGD,
        'batch_size': 128,
        'epochs': 240.0,
        'bn_group_size': 32,  # 4 GPUs, not synchronized
        'encoder.name': 'split_resnet50',
        'encoder.stem': 'imagenet',
        'encoder.width': 32,
        'encoder.stem_width': 64,
        'method.num_negatives': 16384,
        'method.objective': 'nce',
        'method.momentum': 0.5,
        'method.temperature': 0.07,
        'schedule.milestones': (120, 160, 200),
        'augment.crop_scale': (0.08, 1.0),
        'augment.jitter': (0.0, 0.0, 0.0, 0.0),
        'augment.jitter_probability': 0.0,
        'augment.grayscale': 0.0,
        'augment.blur': (0.0,),
        'augment.solarize': (0.0,),
        'augment.color_space': 'lab',
        'augment.mean': (50.0, 6.025, -6.6895),  # the middle of -86.183 .. 98.233, and of -107.857 .. 94.478
        'augment.std': (50.0, 92.208, 101.1675),
    }
    check_values(train_steps.load('cmc'), expected)
    for name, width in (('v1', 32), ('v2', 64), ('v3', 128)):
        check_values(train_steps.load(f'cmc:{name}'), {**expected, 'encoder.width': width})
    ycbcr = {
        'augment.color_space': 'ycbcr',
        'augment.mean': (116.151, 121.080, 132.342),
        'augment.std': (109.500, 111.855, 111.964),
    }
    check_values(train_steps.load('cmc:ycbcr'), {**expected, **ycbcr})
    softmax = {'method.objective': 'softmax', 'method.num_negatives': 4096}
    check_values(train_steps.load('cmc:softmax'), {**expected, **softmax})
    check_values(train_steps.load('cmc:softmax,nce'), expected)
