using System.Runtime.InteropServices;
using Godwit.VfioUser;

namespace Godwit.Devices;

/// <summary>Physical region pages (NVM Express Base 1.4, 4.3): from the two entries of a command to segments.</summary>
internal static class PrpList
{
    /// <summary>Entries fetched at a time: those of a 4 KiB page.</summary>
    public const int FetchEntries = 512;

    /// <summary>Most segments that a transfer of <paramref name="maxTransfer"/> bytes needs with 4 KiB pages: one more with an offset.</summary>
    public static int SegmentCapacity(int maxTransfer) => (maxTransfer >> 12) + 2;

    /// <summary>
    /// Collects <paramref name="length"/> bytes. Every list entry is read from memory once; the work is bounded by the length, wherever the
    /// lists point. Nothing of the data itself is touched.
    /// </summary>
    /// <param name="host">Reads the lists.</param>
    /// <param name="prp1">PRP entry 1.</param>
    /// <param name="prp2">PRP entry 2: unused, second page, or list, as the length says.</param>
    /// <param name="length">Bytes, above 0, at most the controller's largest transfer.</param>
    /// <param name="pageShift">log2 of the memory page size (CC.MPS).</param>
    /// <param name="scratch">Room for <see cref="FetchEntries"/>.</param>
    /// <param name="segments">Takes the result; cleared first.</param>
    public static NvmeStatus Collect(IDeviceHost host, ulong prp1, ulong prp2, int length, int pageShift, Span<ulong> scratch, DmaSegments segments)
    {
        segments.Clear();
        int page = 1 << pageShift;
        ulong offsetMask = (ulong)page - 1;

        if ((prp1 & 3) != 0)
            return NvmeStatus.PrpOffsetInvalid;
        int first = Math.Min(length, page - (int)(prp1 & offsetMask));
        segments.Add(prp1, first);
        int left = length - first;
        if (left == 0)
            return NvmeStatus.Success;

        if (left <= page)
        {
            if ((prp2 & offsetMask) != 0)
                return NvmeStatus.PrpOffsetInvalid;
            segments.Add(prp2, left);
            return NvmeStatus.Success;
        }

        // A list: may begin anywhere in its page at a multiple of 8; the last entry of a page leads to the next page if more than one
        // entry is still needed.
        if ((prp2 & 7) != 0)
            return NvmeStatus.PrpOffsetInvalid;
        ulong list = prp2;
        while (true)
        {
            int needed = (int)(((uint)left + offsetMask) >> pageShift);
            int room = (int)(((ulong)page - (list & offsetMask)) >> 3);
            bool continues = needed > room;
            int data = continues ? room - 1 : needed;
            int fetch = continues ? room : needed;
            while (fetch > 0)
            {
                Span<ulong> entries = scratch[..Math.Min(fetch, FetchEntries)];
                if (!host.Read(new DmaAddress(list), MemoryMarshal.AsBytes(entries)))
                    return NvmeStatus.DataTransferError;
                fetch -= entries.Length;
                list += (ulong)entries.Length * 8;
                for (int i = 0; i < entries.Length; i++)
                {
                    ulong entry = entries[i];
                    if ((entry & offsetMask) != 0)
                        return NvmeStatus.PrpOffsetInvalid;
                    if (data == 0)
                    {
                        list = entry; // the last one fetched, when the list continues
                        break;
                    }
                    int step = Math.Min(left, page);
                    segments.Add(entry, step);
                    left -= step;
                    data--;
                }
            }
            if (left == 0)
                return NvmeStatus.Success;
        }
    }
}
