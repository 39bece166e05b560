using System.Buffers.Binary;

namespace Godwit.Devices.Tests;

/// <summary>A buffer of scattered pages with its PRPs, as a driver makes them: random pages, some neighbours, list chained by pages.</summary>
internal sealed class PrpLayout
{
    private readonly GuestMemory _memory;
    private readonly int _pageShift;
    private readonly int _offset;
    private readonly List<ulong> _pages = [];

    private PrpLayout(GuestMemory memory, int pageShift, int offset, int length)
    {
        _memory = memory;
        _pageShift = pageShift;
        _offset = offset;
        Length = length;
    }

    public int Length { get; }

    public ulong Prp1 { get; private set; }

    public ulong Prp2 { get; private set; }

    /// <summary>Lays a buffer out in pages of <paramref name="memory"/> from number <paramref name="firstPage"/> on, each used once.</summary>
    public static PrpLayout Create(GuestMemory memory, Random random, int pageShift, int offset, int length, int firstPage = 0)
    {
        int page = 1 << pageShift;
        int total = memory.Size >> pageShift;
        var used = new HashSet<ulong>();
        var layout = new PrpLayout(memory, pageShift, offset, length);
        int count = (offset + length + page - 1) >> pageShift;
        for (int i = 0; i < count; i++)
        {
            ulong neighbour = i > 0 ? layout._pages[i - 1] + (ulong)page : 0;
            bool near = i > 0 && random.Next(3) == 0 && memory.Contains(neighbour, page) && used.Add(neighbour);
            layout._pages.Add(near ? neighbour : Fresh());
        }

        layout.Prp1 = layout._pages[0] + (ulong)offset;
        if (count == 2)
            layout.Prp2 = layout._pages[1];
        if (count <= 2)
            return layout;

        ulong list = Fresh() + ((ulong)random.Next(page / 8) * 8);
        layout.Prp2 = list;
        for (int i = 1; i < count; i++)
        {
            bool lastSlot = (list & ((ulong)page - 1)) == (ulong)page - 8;
            if (lastSlot && i < count - 1)
            {
                ulong next = Fresh();
                BinaryPrimitives.WriteUInt64LittleEndian(memory.Span(list, 8), next);
                list = next;
            }
            BinaryPrimitives.WriteUInt64LittleEndian(memory.Span(list, 8), layout._pages[i]);
            list += 8;
        }
        return layout;

        ulong Fresh()
        {
            ulong fresh;
            do
                fresh = GuestMemory.Base + ((ulong)random.Next(firstPage, total) << pageShift);
            while (!used.Add(fresh));
            return fresh;
        }
    }

    /// <summary>Bus address of byte <paramref name="index"/> of the buffer.</summary>
    public ulong AddressOf(int index) =>
        _pages[(_offset + index) >> _pageShift] + (ulong)((_offset + index) & ((1 << _pageShift) - 1));

    public void Fill(ReadOnlySpan<byte> data) => Each(data.Length, (index, span, from) => from[index..(index + span.Length)].CopyTo(span), data.ToArray());

    public byte[] ToArray()
    {
        byte[] result = new byte[Length];
        Each(Length, (index, span, to) => span.CopyTo(to.AsSpan(index)), result);
        return result;
    }

    private delegate void Piece(int index, Span<byte> span, byte[] other);

    private void Each(int length, Piece piece, byte[] other)
    {
        int page = 1 << _pageShift;
        for (int index = 0; index < length;)
        {
            int step = Math.Min(length - index, page - ((_offset + index) & (page - 1)));
            piece(index, _memory.Span(AddressOf(index), step), other);
            index += step;
        }
    }
}
