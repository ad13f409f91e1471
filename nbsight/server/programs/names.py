"""The names of torch's and math's functions and methods that a program may use."""

from __future__ import annotations

import torch

__all__ = [
    "BOTH",
    "CONSTANTS",
    "DATA",
    "FFT",
    "FUNCTIONAL",
    "FUNCTIONS",
    "LINALG",
    "MATH",
    "METHODS",
    "TENSOR",
    "words",
]


def words(text: str) -> list[str]:
    return text.split()


# -- torch -----------------------------------------------------------------------------------------

BOTH = words(
    "abs absolute acos acosh add addmm addcmul addcdiv all allclose amax amin angle any argmax argmin "
    "argsort asin asinh atan atan2 atanh bincount bitwise_and bitwise_not bitwise_or bitwise_xor bmm ceil "
    "chunk clamp clip clone conj corrcoef cos cosh count_nonzero cov cross cummax cummin cumprod cumsum "
    "deg2rad detach diag diag_embed diagflat diagonal diff dist div divide dot eq equal erf erfc exp exp2 "
    "expm1 fix flatten flip fliplr flipud float_power floor floor_divide fmod frac gather ge greater "
    "greater_equal gt heaviside histc hypot index_add index_fill index_select inner inverse isclose "
    "isfinite isin isinf isnan isneginf isposinf isreal kthvalue le lerp less less_equal log log10 log1p "
    "log2 log_softmax logaddexp logcumsumexp logical_and logical_not logical_or logical_xor logit "
    "logsumexp lt masked_fill masked_select matmul max maximum mean median min minimum mm mode moveaxis "
    "movedim msort mul multiply mv nan_to_num nanmean nanmedian nanquantile nansum narrow ne neg negative "
    "nonzero norm not_equal numel outer permute polar pow prod quantile rad2deg ravel real reciprocal "
    "relu remainder repeat_interleave reshape roll rot90 round rsqrt scatter scatter_add scatter_reduce "
    "select sgn sigmoid sign signbit sin sinc sinh slice_scatter softmax sort split sqrt square squeeze "
    "std sub subtract sum svd swapaxes swapdims t take take_along_dim tan tanh tensor_split tile topk "
    "trace transpose tril triu trunc unbind unflatten unique unique_consecutive unsqueeze var "
    "view_as_complex view_as_real where xlogy"
)

FUNCTIONS = words(
    "arange as_tensor broadcast_tensors cartesian_prod cat cdist celu concat cosine_similarity einsum "
    "enable_grad eye full full_like hstack is_grad_enabled is_tensor kron linspace logspace manual_seed "
    "meshgrid no_grad ones ones_like rand rand_like randint randn randn_like randperm stack std_mean "
    "tensor tensordot tril_indices triu_indices var_mean vstack zeros zeros_like selu device Size "
    "is_floating_point"
)

METHODS = words(
    "backward bool contiguous cpu dim double expand expand_as float half bfloat16 int item long new_full "
    "new_ones new_zeros repeat requires_grad_ retain_grad save size stride tolist type_as view view_as "
    "is_contiguous is_floating_point is_complex nelement element_size ndimension masked_scatter put add_ "
    "sub_ mul_ div_ pow_ neg_ abs_ exp_ log_ sqrt_ clamp_ zero_ fill_ copy_ masked_fill_ index_fill_ "
    "index_copy_ index_add_ scatter_ scatter_add_ relu_ sigmoid_ tanh_ round_ floor_ ceil_ lerp_ addcmul_ "
    "clip_ normal_ uniform_ bernoulli_ detach_ squeeze_ unsqueeze_ transpose_ tril_ triu_ masked_scatter_ "
    "to cumsum_ nan_to_num_ remainder_ fmod_ softmax index_put_ index_put"
)

DATA = frozenset(
    words("T mT H mH shape dtype device ndim grad requires_grad is_leaf real imag nbytes itemsize is_cuda")
)

FUNCTIONAL = words(
    "celu cosine_similarity cross_entropy elu embedding gelu glu hardtanh huber_loss kl_div l1_loss "
    "layer_norm leaky_relu linear log_softmax logsigmoid mse_loss nll_loss normalize one_hot pad "
    "pairwise_distance relu relu6 scaled_dot_product_attention selu sigmoid silu smooth_l1_loss softmax "
    "softmin softplus softsign tanh threshold binary_cross_entropy binary_cross_entropy_with_logits "
    "cosine_embedding_loss mish rms_norm"
)

LINALG = words(
    "cholesky det eig eigh eigvals eigvalsh inv lstsq matrix_norm matrix_power matrix_rank norm pinv qr "
    "slogdet solve svd svdvals vector_norm"
)

FFT = ["fft", "fft2", "fftfreq", "fftshift", "ifft", "ifft2", "irfft", "rfft", "rfftfreq"]

CONSTANTS = ["inf", "nan", "pi", "e", "newaxis"]

TENSOR = frozenset(name for name in (*BOTH, *METHODS) if hasattr(torch.Tensor, name))

MATH = words(
    "acos asin atan atan2 ceil comb copysign cos cosh degrees dist erf erfc exp expm1 fabs factorial "
    "floor fmod fsum gcd hypot isclose isfinite isinf isnan log log10 log1p log2 perm prod radians sin "
    "sinh sqrt tan tanh trunc"
)
