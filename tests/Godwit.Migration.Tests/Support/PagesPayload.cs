namespace Godwit.Migration.Tests;

/// <summary>Payloads of Pages frames, taken apart and put together by their description.</summary>
internal static class PagesPayload
{
    /// <summary>A frame's payload with <paramref name="pages"/>, whole pages, and their checksums.</summary>
    public static byte[] Of(PageRun run, ReadOnlySpan<byte> pages)
    {
        byte[] payload = new byte[PageRun.PagesHead((int)run.Count) + pages.Length];
        run.Write(payload);
        for (int page = 0; page < pages.Length / 4096; page++)
            BitConverter.TryWriteBytes(payload.AsSpan(PageRun.Size + (page * 4)), StreamChecksum.Of(pages.Slice(page * 4096, 4096)));
        pages.CopyTo(payload.AsSpan(PageRun.PagesHead((int)run.Count)));
        return payload;
    }

    /// <summary>The pages of <paramref name="part"/>, which is within <paramref name="run"/>, out of its payload, checksums as they came.</summary>
    public static byte[] Part(byte[] payload, PageRun run, PageRun part)
    {
        int skip = (int)(part.FirstPage - run.FirstPage);
        int count = (int)part.Count;
        byte[] result = new byte[PageRun.PagesHead(count) + (count * 4096)];
        part.Write(result);
        payload.AsSpan(PageRun.Size + (skip * 4), count * 4).CopyTo(result.AsSpan(PageRun.Size));
        payload.AsSpan(PageRun.PagesHead((int)run.Count) + (skip * 4096), count * 4096).CopyTo(result.AsSpan(PageRun.PagesHead(count)));
        return result;
    }
}
