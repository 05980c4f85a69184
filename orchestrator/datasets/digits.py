"""digits: the 1797 handwritten digits of 8×8 that come with scikit-learn, a fifth of them held out."""

import numpy as np

from mpsl.errors import UsageError
from orchestrator.datasets import Dataset, datasets


@datasets.register("digits")
def load(seed: int) -> Dataset:
    """Return the digits. The same share of each label is held out; `seed` chooses the samples. Raises UsageError."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise UsageError("data set digits comes with scikit-learn: pip install 'mpsl[demo]'") from None
    source = load_digits()
    samples = np.ascontiguousarray(source.images[:, None] / 16, dtype=np.float32)
    labels = source.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(samples, labels, test_size=0.2, stratify=labels, random_state=seed)
    return Dataset(x, y, x_test, y_test)
