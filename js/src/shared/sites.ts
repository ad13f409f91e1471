/** The places in a block that have a standard name, in words. */
export const SITES: Record<string, string> = {
  resid_pre: 'stream before the block',
  z: 'heads, before the output matrix',
  z_by_head: 'each head on its own',
  attn_out: 'what attention adds',
  resid_mid: 'stream between attention and MLP',
  mlp_out: 'what the MLP adds',
  resid_post: 'stream after the block'
};
