// Named ids: the same bytes come out of every checkout folder.
module.exports = { optimization: { moduleIds: 'named', chunkIds: 'named' } };
