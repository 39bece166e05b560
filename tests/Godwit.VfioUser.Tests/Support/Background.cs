using System.Runtime.ExceptionServices;

namespace Godwit.VfioUser.Tests;

/// <summary>A thread of a test. Its failure is the test's when it is joined.</summary>
internal sealed class Background
{
    private readonly Thread _thread;
    private ExceptionDispatchInfo? _failure;

    private Background(Action body)
    {
        _thread = new Thread(() =>
        {
            try
            {
                body();
            }
            catch (Exception e)
            {
                _failure = ExceptionDispatchInfo.Capture(e);
            }
        })
        {
            IsBackground = true,
        };
        _thread.Start();
    }

    public bool IsRunning => _thread.IsAlive;

    public static Background Run(Action body) => new(body);

    public static Background[] Run(int count, Action<int> body) => [.. Enumerable.Range(0, count).Select(i => new Background(() => body(i)))];

    /// <summary>Waits for all.</summary>
    public static void Join(params IEnumerable<Background> all)
    {
        foreach (Background one in all)
            one.Join();
    }

    public void Join()
    {
        Assert.True(_thread.Join(TestServer.Patience), "a thread of the test hangs");
        _failure?.Throw();
    }

    /// <summary>What <paramref name="client"/> says when it is lost.</summary>
    public static string LossOf(VfioUserClient client)
    {
        Assert.True(client.Lost.Wait(TestServer.Patience), "the client does not notice that its device is lost");
        return client.Lost.Result;
    }
}
