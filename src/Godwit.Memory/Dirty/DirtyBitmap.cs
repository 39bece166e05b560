using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Godwit.Memory;

/// <summary>
/// One bit per page over a fixed number of pages, with a summary bit per 1024 of them, in native memory. All members but
/// <see cref="Dispose"/> may be called from any thread at once. Setting takes no lock and waits for nobody; drains exclude each other.
/// </summary>
/// <remarks>
/// <para>
/// The bits of 16384 pages make a block. A <see cref="DirtyBlock"/> word says which buffer holds them and which parts of it may have bits
/// set. <see cref="Drain(ref ulong, ulong, Span{DirtyRun})"/> exchanges that word for one with a clear buffer and no parts, and has the old
/// buffer for itself: it reads and clears it with plain loads and stores.
/// </para>
/// <para>
/// <b>Why no bit is lost.</b> <see cref="OrBlock"/> does, in this order: (1) read the block word; (2) have the bits in its buffer, by atomic
/// OR or because an acquiring read found them set; (3) have the parts in the block word, by atomic OR or because step 1 found them there;
/// (4) find in the value of the block word at (3) the buffer and generation of step 1, else begin again. A drain's exchange of the block
/// word comes before (3) or after it. If before, (4) sees another generation, and the bits are set again in the new buffer. If after, the
/// exchange returns the parts, and as (2) came before (3) the drain's reads, which come after the exchange, see the bits. The order
/// matters on both sides: bits before summary here, summary before bits there. Summary first would let a drain take the part, read the
/// word without the bit, and leave a bit that no summary names.
/// </para>
/// <para>
/// Step 2 may find a bit that another thread has set and not yet published. That is why steps 3 and 4 are done for it too: a mark stands
/// on nobody else's promise. A generation has 22 bits and buffers change places at each drain; to be deceived, a thread would have to sleep
/// between (1) and (4) through a multiple of 2^22 drains of its block, and wake when its buffer happens to be back.
/// </para>
/// <para>
/// <b>What may be wrong, always on the safe side.</b> An OR that comes too late for a drain may leave its bit in a buffer that then serves
/// another block: a page there may be handed out that nobody set. The counts of newly set bits may then be off as well. Neither happens
/// when no drain runs beside.
/// </para>
/// <para>No method is a fence when it changes nothing; <see cref="DirtyLog"/> adds the fences.</para>
/// </remarks>
public sealed unsafe partial class DirtyBitmap : IDisposable
{
    /// <summary>Most pages of a bitmap: nearly 4 PiB of RAM.</summary>
    public const ulong MaxPages = (DirtyBlock.MaxBuffers - 1) * DirtyBlock.Pages;

    private const int BitsPerWord = 64;
    private const nuint Alignment = 64;

    private readonly Lock _drain = new();
    private readonly DrainVectors _vectors;
    private ulong* _blocks; // DirtyBlock values
    private ulong* _bits; // a buffer per block and a spare one
    private ulong _pageCount;
    private ulong _blockCount;
    private ulong _spare; // a clear buffer; guarded by _drain

    /// <summary>Creates a bitmap of <paramref name="pageCount"/> clear bits.</summary>
    /// <exception cref="ArgumentOutOfRangeException">0, or more than <see cref="MaxPages"/>.</exception>
    public DirtyBitmap(ulong pageCount) : this(pageCount, RunWriter.Supported)
    {
    }

    /// <summary>With a choice of how words become runs, for tests.</summary>
    internal DirtyBitmap(ulong pageCount, DrainVectors vectors)
    {
        ArgumentOutOfRangeException.ThrowIfZero(pageCount);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pageCount, MaxPages);
        _blockCount = (pageCount + DirtyBlock.Pages - 1) / DirtyBlock.Pages;
        _spare = _blockCount;
        nuint blockBytes = checked((nuint)((_blockCount * sizeof(ulong) + Alignment - 1) & ~((ulong)Alignment - 1)));
        nuint bitBytes = checked((nuint)((_blockCount + 1) * DirtyBlock.Words * sizeof(ulong)));
        // SAFETY: allocated here with these sizes, freed once in Dispose; block numbers are below _blockCount, buffer numbers at most that.
        _blocks = (ulong*)NativeMemory.AlignedAlloc(blockBytes, Alignment);
        _bits = (ulong*)NativeMemory.AlignedAlloc(bitBytes, Alignment);
        NativeMemory.Clear(_blocks, blockBytes);
        NativeMemory.Clear(_bits, bitBytes);
        for (ulong block = 0; block < _blockCount; block++)
            _blocks[block] = DirtyBlock.Clear(block).Value;
        _pageCount = pageCount;
        _vectors = vectors;
    }

    /// <summary>Pages covered.</summary>
    public ulong PageCount => _pageCount;

    /// <summary>Whether the bit is set now.</summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="page"/> is not covered.</exception>
    public bool IsSet(ulong page)
    {
        if (page >= _pageCount)
            ThrowOutside(page, 1);
        ulong word = page / BitsPerWord;
        while (true)
        {
            // SAFETY: page is below _pageCount.
            ref ulong entry = ref _blocks[word / DirtyBlock.Words];
            var block = new DirtyBlock(Volatile.Read(ref entry));
            ulong bits = Volatile.Read(ref Buffer(block)[word % DirtyBlock.Words]);
            if (block.IsSameBuffer(new DirtyBlock(Volatile.Read(ref entry))))
                return (block.Dirty >> PartOf(word) & bits >> (int)(page % BitsPerWord) & 1) != 0;
        }
    }

    /// <summary>Number of set bits, a snapshot word by word.</summary>
    public ulong Count()
    {
        ulong count = 0;
        for (ulong block = 0; (block = NextDirtyBlock(block)) < _blockCount; block++)
        {
            // SAFETY: block is below _blockCount, and a block has Words words.
            var entry = new DirtyBlock(Volatile.Read(ref _blocks[block]));
            ulong* words = Buffer(entry);
            for (uint parts = entry.Dirty; parts != 0; parts &= parts - 1)
            {
                int first = BitOperations.TrailingZeroCount(parts) * DirtyBlock.WordsPerPart;
                for (int word = first; word < first + DirtyBlock.WordsPerPart; word++)
                    count += (ulong)BitOperations.PopCount(Volatile.Read(ref words[word]) & WordMask(block, word));
            }
        }

        return count;
    }

    /// <summary>Frees the memory; afterwards no page is covered. No other thread may be inside.</summary>
    public void Dispose()
    {
        // SAFETY: set to null, so it is freed once.
        NativeMemory.AlignedFree(_blocks);
        NativeMemory.AlignedFree(_bits);
        _blocks = null;
        _bits = null;
        _pageCount = 0;
        _blockCount = 0;
    }

    /// <summary>The first block from <paramref name="block"/> on whose summary is not empty; else the number of blocks.</summary>
    private ulong NextDirtyBlock(ulong block)
    {
        // SAFETY: reads stay below _blockCount. The vector reads are hints only: a block found is read again atomically.
        while (block < _blockCount && block % 8 != 0)
        {
            if ((_blocks[block] & DirtyBlock.PartsMask) != 0)
                return block;
            block++;
        }

        var mask = Vector256.Create(DirtyBlock.PartsMask);
        while (block + 8 <= _blockCount && ((Vector256.Load(_blocks + block) | Vector256.Load(_blocks + block + 4)) & mask) == Vector256<ulong>.Zero)
            block += 8;
        while (block < _blockCount && (_blocks[block] & DirtyBlock.PartsMask) == 0)
            block++;
        return block;
    }

    /// <summary>The bits of a word that stand for covered pages.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ulong WordMask(ulong block, int word)
    {
        ulong first = (block * DirtyBlock.Pages) + ((ulong)word * BitsPerWord);
        if (first + BitsPerWord <= _pageCount)
            return ulong.MaxValue;
        return first >= _pageCount ? 0 : (1UL << (int)(_pageCount - first)) - 1;
    }

    // SAFETY: a buffer number that a block word or _spare holds is at most _blockCount.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ulong* Buffer(DirtyBlock block) => _bits + (block.Buffer * DirtyBlock.Words);

    private static int PartOf(ulong word) => (int)(word % DirtyBlock.Words / DirtyBlock.WordsPerPart);

    private void CheckRange(ulong first, ulong count)
    {
        if (count > _pageCount || first > _pageCount - count)
            ThrowOutside(first, count);
    }

    private void ThrowOutside(ulong first, ulong count) =>
        throw new ArgumentOutOfRangeException(nameof(first), first, $"{count} pages from page {first} leave the bitmap of {_pageCount} pages");
}
